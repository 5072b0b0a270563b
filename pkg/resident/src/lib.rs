//! Gives memory back that only the start, or a busy hour, needed.
//!
//! Most of what a fresh process has resident is its own program text: the start touches nearly all of it, the rest of
//! its life little. The pages are clean and stay in the page cache; what is needed again is mapped again.

use std::cell::Cell;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// When the start is over.
const FIRST: Duration = Duration::from_secs(5);
/// Mapping anew what is still needed costs about half a millisecond.
const PERIOD: Duration = Duration::from_secs(10);

/// Gives memory back now and then until the shutdown.
pub async fn trim(shutdown: CancellationToken) {
    let mut wait = FIRST;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        wait = PERIOD;
        if let Some((start, length)) = text() {
            unmap(start, length);
        }
    }
}

/// Where the program's own text is mapped: readable and executable, never written to.
fn text() -> Option<(usize, usize)> {
    let own = std::fs::read_link("/proc/self/exe").ok()?;
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    maps.lines().find_map(|line| range(line, own.to_str()?))
}

/// The start and length of a line of `/proc/self/maps`, if it is the text of `program`.
fn range(line: &str, program: &str) -> Option<(usize, usize)> {
    let mut words = line.split_whitespace();
    let (bounds, mode) = (words.next()?, words.next()?);
    let path = words.nth(3)?;
    if mode != "r-xp" || path != program {
        return None;
    }
    let (start, end) = bounds.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    Some((start, end.checked_sub(start)?))
}

fn unmap(start: usize, length: usize) {
    #[expect(unsafe_code, reason = "no safe call unmaps pages; see below why this is one")]
    // SAFETY: the range is a mapping of this program's own file that is private, not writable and still there, since
    // nothing in this process unmaps its text. Its pages are the file's, unchanged: dropping them loses nothing, and
    // the next access maps them again.
    let done = unsafe { libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED) };
    if done != 0 {
        tracing::debug!(error = %std::io::Error::last_os_error(), "Cannot give program text back");
    }
}

/// Gives back what this thread's allocator keeps for later, unless it has just done so. For a runtime's
/// `on_thread_park`: a thread that has nothing to do may well have had much to do before.
pub fn tidy() {
    thread_local! {
        static LAST: Cell<Option<Instant>> = const { Cell::new(None) };
    }
    let now = Instant::now();
    if !is_due(LAST.get(), now) {
        return;
    }
    LAST.set(Some(now));
    #[expect(unsafe_code, reason = "the allocator is a C library")]
    // SAFETY: the call takes no pointer and may be made by any thread at any time.
    unsafe {
        libmimalloc_sys::mi_collect(true);
    }
}

fn is_due(last: Option<Instant>, now: Instant) -> bool {
    last.is_none_or(|last| now.duration_since(last) >= PERIOD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_thread_tidies_seldom() {
        let now = Instant::now();
        assert!(is_due(None, now) && is_due(Some(now), now + PERIOD));
        assert!(!is_due(Some(now), now + PERIOD / 2));
    }

    #[test]
    fn only_the_text_of_the_program() {
        let line = |mode: &str, path: &str| format!("1000-3000 {mode} 00001000 fe:00 7      {path}");
        assert_eq!(range(&line("r-xp", "/k"), "/k"), Some((0x1000, 0x2000)));
        assert_eq!(range(&line("r--p", "/k"), "/k"), None);
        assert_eq!(range(&line("rw-p", "/k"), "/k"), None);
        assert_eq!(range(&line("r-xp", "/lib/x.so"), "/k"), None);
        assert_eq!(range("7f-80 r-xp 0 0:0 0", "/k"), None);
    }

    #[test]
    fn the_program_runs_on() {
        let (start, length) = text().expect("a program has text");
        unmap(start, length);
        assert_eq!(text(), Some((start, length)));
    }
}
