//! pflag's grammar, case by case.

use super::*;

const TABLE: &str = r#"{"flags":[
  {"flag":"help","shorthand":"h","type":"bool","default":"false","section":"Global"},
  {"flag":"v","shorthand":"v","type":"Level","default":"0"},
  {"flag":"profiling","type":"bool","default":"true"},
  {"flag":"bind-address","type":"ip","default":"0.0.0.0"},
  {"flag":"sync-period","type":"duration","default":"10s"},
  {"flag":"burst","type":"int32","default":"100"},
  {"flag":"paths","type":"stringSlice","default":"[/healthz,/readyz]"},
  {"flag":"issuer","type":"stringArray","default":"[]"},
  {"flag":"feature-gates","type":"colonSeparatedMultimapStringString","default":""},
  {"flag":"old","type":"string","default":"","deprecated":true,"warns_on_use":true},
  {"flag":"version","type":"version","default":"false","no_opt_default":"true"}]}"#;

fn parse(args: &[&str]) -> Result<Flags, FlagError> {
    Command::new("kube-test", "A test.", TABLE)
        .implements(&[("burst", "Burst.")])
        .parse_from(args.iter().copied())
}

#[test]
fn values_in_every_form() {
    let f =
        parse(&["--profiling=false", "--bind_address", "127.0.0.1", "-v4", "--paths=a,b", "--paths", "c"])
            .unwrap();
    assert!(!f.bool("profiling"));
    assert_eq!((f.str("bind-address"), f.int("v")), ("127.0.0.1", 4));
    assert_eq!(f.list("paths"), ["a", "b", "c"]);
    assert_eq!(f.without_effect(), ["bind-address", "paths", "profiling"]);
    let f = parse(&["--profiling", "-v=2", "--issuer=a,b", "--issuer", "c", "--sync-period=1m", "--old=x"])
        .unwrap();
    assert!(f.bool("profiling") && f.is_set("issuer"));
    assert_eq!((f.int("v"), f.duration("sync-period")), (2, Duration::from_secs(60)));
    assert_eq!(f.list("issuer"), ["a,b", "c"]);
    assert_eq!(f.warnings().len(), 1);
}

#[test]
fn defaults_stand_where_nothing_is_given() {
    let f = parse(&[]).unwrap();
    assert_eq!(f.list("paths"), ["/healthz", "/readyz"]);
    assert_eq!((f.int("burst"), f.duration("sync-period")), (100, Duration::from_secs(10)));
    assert!(f.opt("old").is_none() && f.list("issuer").is_empty() && !f.is_set("burst"));
}

#[test]
fn mistakes_are_named() {
    for (args, text) in [
        (&["--nope"][..], "unknown flag: --nope"),
        (&["--burst"], "flag needs an argument: --burst"),
        (
            &["--burst=x"],
            r#"invalid argument "x" for "--burst" flag: strconv.ParseInt: parsing "x": invalid syntax"#,
        ),
        (
            &["--burst=3000000000"],
            r#"invalid argument "3000000000" for "--burst" flag: strconv.ParseInt: parsing "3000000000": value out of range"#,
        ),
        (
            &["--sync-period=5"],
            r#"invalid argument "5" for "--sync-period" flag: time: invalid duration "5""#,
        ),
        (&["-x"], "unknown shorthand flag: 'x' in -x"),
        (&["word"], r#""kube-test" does not take any arguments, got ["word"]"#),
    ] {
        assert_eq!(parse(args).err().map(|e| e.to_string()).as_deref(), Some(text));
    }
}

#[test]
fn help_names_every_flag_and_says_which_have_no_effect() {
    let help = Command::new("kube-test", "A test.", TABLE).implements(&[("burst", "Burst.")]).help_text();
    assert!(help.contains("--burst int32\n        Burst. (default 100)\n"));
    assert!(help.contains("--sync-period duration\n        accepted; has no effect yet (default 10s)"));
    assert!(help.contains("Global flags:\n\n  -h, --help"));
}
