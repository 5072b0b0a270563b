//! How the daemons are linked, so that an idle one keeps little of its own program in memory. For build scripts.
//!
//! The kernel maps a program in windows of 64 KiB around each page that is touched. The idle loop of a daemon runs some
//! thousand small functions, a tenth of its text; strewn over all of it, they keep most of it resident. So the functions
//! of the loop are put side by side: [`daemon`] reads their names from `hot-text.gz` beside the build script, which
//! `hack/hot-text.sh` writes. A name that the program no longer has is passed over: an old list costs memory, nothing
//! else.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

const LIST: &str = "hot-text.gz";

/// Tells cargo how to link the daemon whose build script calls this.
pub fn daemon() {
    println!("cargo:rerun-if-changed={LIST}");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux")
        || env::var("CARGO_CFG_TARGET_ENV").as_deref() != Ok("gnu")
    {
        return;
    }
    // Over a megabyte of relative relocations, all read by the loader and therefore resident; packed, some kilobytes.
    println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    if env::var("PROFILE").as_deref() != Ok("release") {
        return;
    }
    match order(Path::new(LIST)) {
        Ok(script) => println!("cargo:rustc-link-arg-bins=-Wl,-T,{}", script.display()),
        Err(error) => println!("cargo:warning={LIST}: {error}: the daemon will hold more memory when idle"),
    }
}

/// Writes the linker script that puts the functions of the list first.
fn order(list: &Path) -> io::Result<PathBuf> {
    let mut names = String::new();
    flate2::read::GzDecoder::new(fs::File::open(list)?).read_to_string(&mut names)?;
    let folder = env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("OUT_DIR is not set"))?;
    let path = PathBuf::from(folder).join("hot-text.ld");
    fs::write(&path, script(&names))?;
    Ok(path)
}

/// A script that adds to the linker's own: every line of the list is the pattern of a function's name. What the
/// optimizer appends to a name begins with a dot.
fn script(names: &str) -> String {
    let mut script = String::from("SECTIONS {\n  .text.hot : {\n");
    for name in names.lines().filter(|name| !name.is_empty()) {
        let _ = writeln!(script, "    *(.text.{name} .text.{name}.*)");
    }
    script.push_str("  }\n} INSERT BEFORE .text;\n");
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_a_pattern_of_sections() {
        let text = script("_ZN4main4loop17h*\n\nmi_free\n");
        assert_eq!(text.matches("*(.text.").count(), 2);
        assert!(text.contains("*(.text.mi_free .text.mi_free.*)"), "{text}");
        assert!(text.ends_with("INSERT BEFORE .text;\n"), "it adds to the linker's own script: {text}");
    }
}
