//! The file systems of the node and the disks below them: room as `statfs` tells it, traffic as the kernel counts it.
//! All of it is the root's: what single containers read and write their cgroups know.

use std::collections::BTreeMap;
use std::path::Path;

use crate::metrics::Family;
use crate::stats::Space;

/// What the kernel counts of a block device, in the order of `/proc/diskstats`: reads, reads merged, sectors read,
/// milliseconds reading, the same four of writes, those under way, milliseconds busy, the same weighted.
type Counts = [u64; 11];

/// A file system that takes room: what it is called and where it is mounted.
#[derive(Debug, PartialEq)]
struct Mounted {
    device: String,
    point: String,
}

/// The file systems of the node, each once. Those in memory are called after the place they are mounted at.
fn mounted(mounts: &str) -> Vec<Mounted> {
    let mut found: Vec<Mounted> = Vec::new();
    for line in mounts.lines() {
        let mut words = line.split(' ');
        let (Some(source), Some(point), Some(kind)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let point = unescape(point);
        let device = match kind {
            "tmpfs" => point.clone(),
            "ext2" | "ext3" | "ext4" | "xfs" | "btrfs" | "zfs" => source.to_owned(),
            k if k.starts_with("nfs") => source.to_owned(),
            _ => continue,
        };
        if !found.iter().any(|m| m.device == device) {
            found.push(Mounted { device, point });
        }
    }
    found
}

/// A path as the mount table writes it: spaces and the like as octal numbers.
fn unescape(path: &str) -> String {
    path.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
}

/// Counts by the device's path.
fn counts(diskstats: &str) -> BTreeMap<String, Counts> {
    let of = |line: &str| {
        let mut words = line.split_whitespace().skip(2);
        let name = words.next()?;
        let mut counts = Counts::default();
        for count in &mut counts {
            *count = words.next()?.parse().ok()?;
        }
        Some((format!("/dev/{name}"), counts))
    };
    diskstats.lines().filter_map(of).collect()
}

fn read() -> Vec<(Mounted, Counts)> {
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let counts = counts(&text("/proc/diskstats"));
    let all = mounted(&text("/proc/self/mounts"));
    all.into_iter()
        .map(|m| (counts.get(&m.device).copied().unwrap_or_default(), m))
        .map(|(c, m)| (m, c))
        .collect()
}

fn add(family: &mut Family, name: &str, device: &str, value: f64) {
    let labels = [
        ("container", ""),
        ("device", device),
        ("id", "/"),
        ("image", ""),
        ("name", ""),
        ("namespace", ""),
        ("pod", ""),
    ];
    family.add(name, &labels, value);
}

/// The root's samples of reads or writes completed.
pub fn completed(family: &mut Family, name: &str, write: bool) {
    for (mounted, counts) in read() {
        add(family, name, &mounted.device, counts[if write { 4 } else { 0 }] as f64);
    }
}

/// The families that only the root has.
pub fn families() -> String {
    const MS: f64 = 1000.0;
    let all = read();
    let mut text = String::new();
    for (name, kind, help, index, divisor) in [
        ("container_fs_reads_merged_total", "counter", "Cumulative count of reads merged", 1, 1.0),
        ("container_fs_sector_reads_total", "counter", "Cumulative count of sector reads completed", 2, 1.0),
        ("container_fs_read_seconds_total", "counter", "Cumulative count of seconds spent reading", 3, MS),
        ("container_fs_writes_merged_total", "counter", "Cumulative count of writes merged", 5, 1.0),
        (
            "container_fs_sector_writes_total",
            "counter",
            "Cumulative count of sector writes completed",
            6,
            1.0,
        ),
        ("container_fs_write_seconds_total", "counter", "Cumulative count of seconds spent writing", 7, MS),
        ("container_fs_io_current", "gauge", "Number of I/Os currently in progress", 8, 1.0),
        (
            "container_fs_io_time_seconds_total",
            "counter",
            "Cumulative count of seconds spent doing I/Os",
            9,
            MS,
        ),
        (
            "container_fs_io_time_weighted_seconds_total",
            "counter",
            "Cumulative weighted I/O time in seconds",
            10,
            MS,
        ),
    ] {
        let mut family = Family::new(name, kind, help);
        for (mounted, counts) in &all {
            add(&mut family, name, &mounted.device, counts[index] as f64 / divisor);
        }
        text += &family.text;
    }
    text + &room(&all)
}

fn room(all: &[(Mounted, Counts)]) -> String {
    type Value = fn(&Space) -> u64;
    let families: [(&str, &str, Value); 4] = [
        (
            "container_fs_limit_bytes",
            "Number of bytes that can be consumed by the container on this filesystem.",
            |s| s.capacity,
        ),
        (
            "container_fs_usage_bytes",
            "Number of bytes that are consumed by the container on this filesystem.",
            |s| s.capacity.saturating_sub(s.available),
        ),
        ("container_fs_inodes_total", "Number of Inodes", |s| s.inodes),
        ("container_fs_inodes_free", "Number of available Inodes", |s| s.inodes_free),
    ];
    let known = |m: &Mounted| Some((m.device.clone(), Space::of(Path::new(&m.point))?));
    let spaces: Vec<(String, Space)> = all.iter().filter_map(|(m, _)| known(m)).collect();
    let mut text = String::new();
    for (name, help, value) in families {
        let mut family = Family::new(name, "gauge", help);
        for (device, space) in &spaces {
            add(&mut family, name, device, value(space) as f64);
        }
        text += &family.text;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let mounts = "/dev/vda / ext4 rw 0 0\nproc /proc proc rw 0 0\ntmpfs /a\\040b tmpfs rw 0 0\n\
                      /dev/vda /var ext4 rw 0 0\noverlay /x overlay rw 0 0\n";
        let names: Vec<(String, String)> = mounted(mounts).into_iter().map(|m| (m.device, m.point)).collect();
        assert_eq!(names, [("/dev/vda".into(), "/".into()), ("/a b".into(), "/a b".into())]);
        let found = counts("254 0 vda 1 2 3 4 5 6 7 8 9 10 11 0 0\n7 0 loop0 x\n");
        assert_eq!(found["/dev/vda"], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
        assert_eq!(found.len(), 1);
    }
}
