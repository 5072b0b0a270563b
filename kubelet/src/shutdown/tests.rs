use super::*;
use serde_json::json;
use std::sync::Mutex;

fn pod(name: &str, priority: Option<i32>) -> Arc<Pod> {
    let spec = json!({"containers": [], "priority": priority});
    Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap())
}

#[test]
fn pods_belong_to_the_highest_period_below_their_priority() {
    let config =
        |value: serde_json::Value| -> KubeletConfiguration { serde_json::from_value(value).unwrap() };
    assert!(periods(&config(json!({}))).is_empty());
    let simple =
        periods(&config(json!({"shutdownGracePeriod": "30s", "shutdownGracePeriodCriticalPods": "10s"})));
    assert_eq!(
        simple,
        [Period { priority: 0, seconds: 20 }, Period { priority: SYSTEM_CRITICAL, seconds: 10 }]
    );
    let by_priority = periods(&config(json!({"shutdownGracePeriodByPodPriority": [
        {"priority": 1000, "shutdownGracePeriodSeconds": 5}, {"priority": 10, "shutdownGracePeriodSeconds": 7}]})));
    let pods = vec![pod("low", Some(-5)), pod("none", None), pod("mid", Some(999)), pod("high", Some(1000))];
    let names: Vec<Vec<String>> = groups(&by_priority, pods)
        .into_iter()
        .map(|(_, pods)| pods.iter().map(|p| p.name().to_string()).collect())
        .collect();
    assert_eq!(names, [vec!["low", "none", "mid"], vec!["high"]]);
}

/// As much of logind and systemd as the kubelet talks to.
struct Manager {
    delay: Arc<Mutex<u64>>,
    asked: Arc<Mutex<Vec<String>>>,
}

#[zbus::interface(name = "org.freedesktop.login1.Manager")]
impl Manager {
    fn inhibit(&self, what: &str, who: &str, _why: &str, mode: &str) -> OwnedFd {
        self.asked.lock().unwrap().push(format!("{what} {who} {mode}"));
        std::os::fd::OwnedFd::from(std::fs::File::open("/dev/null").unwrap()).into()
    }
    #[zbus(property, name = "InhibitDelayMaxUSec")]
    fn inhibit_delay_max_usec(&self) -> u64 {
        *self.delay.lock().unwrap()
    }
}

struct Systemd {
    delay: Arc<Mutex<u64>>,
}

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl Systemd {
    fn kill_unit(&self, name: &str, _whom: &str, signal: i32) {
        assert_eq!((name, signal), ("systemd-logind.service", libc::SIGHUP));
        *self.delay.lock().unwrap() = 30_000_000;
    }
}

#[tokio::test]
async fn logind_is_told_to_wait_long_enough_and_held_up() {
    let (ours, theirs) = tokio::net::UnixStream::pair().unwrap();
    let delay = Arc::new(Mutex::new(5_000_000));
    let asked = Arc::new(Mutex::new(Vec::new()));
    let manager = Manager { delay: delay.clone(), asked: asked.clone() };
    let server = zbus::connection::Builder::unix_stream(theirs)
        .server(zbus::Guid::generate())
        .unwrap()
        .p2p()
        .serve_at("/org/freedesktop/login1", manager)
        .unwrap()
        .serve_at("/org/freedesktop/systemd1", Systemd { delay })
        .unwrap()
        .build();
    let client = zbus::connection::Builder::unix_stream(ours).p2p().build();
    let (_server, bus) = tokio::try_join!(server, client).unwrap();
    let logind =
        LogindProxy::builder(&bus).cache_properties(zbus::proxy::CacheProperties::No).build().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("logind.conf.d/99-kubelet.conf");
    ensure_delay(&bus, &logind, Duration::from_secs(30), &file).await.unwrap();
    assert!(std::fs::read_to_string(&file).unwrap().contains("InhibitDelayMaxSec=30"));
    let error = ensure_delay(&bus, &logind, Duration::from_secs(60), &file).await.unwrap_err();
    assert!(error.to_string().contains("unable to update logind"), "{error}");
    let _lock = inhibit(&logind).await.unwrap();
    assert_eq!(*asked.lock().unwrap(), ["shutdown kubelet delay"]);
}
