//! Families whose rows have labels of their own: kinds of failures, interfaces, limits, disks.

use super::{Row, disks, host};
use crate::metrics::Family;

pub(super) fn failures(rows: &[Row]) -> String {
    let name = "container_memory_failures_total";
    let mut family = Family::new(name, "counter", "Cumulative count of memory allocation failures.");
    for row in rows {
        let s = &row.sample;
        for (kind, scope, value) in [
            ("pgfault", "container", s.faults),
            ("pgfault", "hierarchy", s.faults),
            ("pgmajfault", "container", s.major_faults),
            ("pgmajfault", "hierarchy", s.major_faults),
        ] {
            let Some(value) = value else { continue };
            let mut labels = row.labels();
            labels.extend([("failure_type", kind), ("scope", scope)]);
            family.add(name, &labels, value as f64);
        }
    }
    family.text
}

pub(super) fn traffic(rows: &[Row]) -> String {
    type Count = fn(&host::Interface) -> u64;
    type Kind = (&'static str, &'static str, Count);
    let families: [Kind; 8] = [
        ("receive_bytes", "Cumulative count of bytes received", |i| i.received[0]),
        ("receive_packets", "Cumulative count of packets received", |i| i.received[1]),
        ("receive_errors", "Cumulative count of errors encountered while receiving", |i| i.received[2]),
        ("receive_packets_dropped", "Cumulative count of packets dropped while receiving", |i| i.received[3]),
        ("transmit_bytes", "Cumulative count of bytes transmitted", |i| i.sent[0]),
        ("transmit_packets", "Cumulative count of packets transmitted", |i| i.sent[1]),
        ("transmit_errors", "Cumulative count of errors encountered while transmitting", |i| i.sent[2]),
        ("transmit_packets_dropped", "Cumulative count of packets dropped while transmitting", |i| i.sent[3]),
    ];
    let mut text = String::new();
    for (what, help, value) in families {
        let name = format!("container_network_{what}_total");
        let mut family = Family::new(&name, "counter", help);
        for row in rows {
            for interface in &row.network {
                let mut labels = row.labels();
                labels.push(("interface", &interface.name));
                family.add(&name, &labels, value(interface) as f64);
            }
        }
        text += &family.text;
    }
    text
}

/// How many files the first process of each container may open.
pub(super) fn limits_of_files(rows: &[Row]) -> String {
    let name = "container_ulimits_soft";
    let help = "Soft ulimit values for the container root process. Unlimited if -1, except priority and nice";
    let mut family = Family::new(name, "gauge", help);
    for row in rows.iter().filter(|r| !r.name.is_empty()) {
        if let Some(limit) = row.sample.pids.first().and_then(|pid| host::open_files(*pid)) {
            let mut labels = row.labels();
            labels.push(("ulimit", "max_open_files"));
            family.add(name, &labels, limit);
        }
    }
    family.text
}

pub(super) fn disk_traffic(rows: &[Row]) -> String {
    let mut text = String::new();
    for (name, help, write, count) in [
        ("container_fs_reads_bytes_total", "Cumulative count of bytes read", false, false),
        ("container_fs_reads_total", "Cumulative count of reads completed", false, true),
        ("container_fs_writes_bytes_total", "Cumulative count of bytes written", true, false),
        ("container_fs_writes_total", "Cumulative count of writes completed", true, true),
    ] {
        let mut family = Family::new(name, "counter", help);
        if count {
            disks::completed(&mut family, name, write);
        }
        for row in rows {
            let list = if count { &row.sample.disk_operations } else { &row.sample.disks };
            for (device, read, written) in list {
                let mut labels = row.labels();
                labels.push(("device", device));
                family.add(name, &labels, if write { *written } else { *read } as f64);
            }
        }
        text += &family.text_if_any();
    }
    text
}
