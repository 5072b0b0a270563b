//! Endpoints.

use crate::table::{NONE, age, name};
use crate::value::{Get, Put};
use crate::{Kind, PLAIN};
use api::Value;

pub static ROOM: Kind = Kind { defaults, row: Some(row), create_on_update: true, ..PLAIN };

fn defaults(o: &mut Value) {
    for subset in o.items("subsets") {
        for port in subset.items("ports") {
            port.fill_zero("protocol", "TCP");
        }
    }
}

fn row(o: &Value) -> Vec<Value> {
    vec![name(o), addresses(o).into(), age(o)]
}

fn addresses(o: &Value) -> String {
    if o.len("subsets") == 0 {
        return NONE.to_owned();
    }
    let mut all = Vec::new();
    for subset in o.list("subsets") {
        let ips = || subset.list("addresses").iter().map(|a| a.text("ip"));
        if subset.len("ports") == 0 {
            all.extend(ips().map(str::to_owned));
        }
        for port in subset.list("ports") {
            all.extend(ips().map(|ip| join_host_port(ip, port.int("port"))));
        }
    }
    crate::table::first_three(&all, "")
}

/// `host:port`, with brackets around an IPv6 address.
pub fn join_host_port(host: &str, port: i64) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}
