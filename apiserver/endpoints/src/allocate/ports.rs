//! Node ports: a bitmap in etcd, changed by compare-and-swap.

use super::families::{needs_health_port, needs_node_ports};
use super::{Pools, Reserved, invalid, spec_path};
use crate::envelope;
use crate::server::Server;
use crate::write::Target;
use api::field::Error;
use api::status::{Result, Status};
use api::{GroupVersionKind, Value, json};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use rand::RngExt;
use std::collections::BTreeSet;
use std::time::Duration;

/// How often a change of the bitmap is tried while other servers change it, too.
const ATTEMPTS: u64 = 200;

/// The node ports that a Service has.
pub fn of(service: &Value) -> Vec<u16> {
    let ports = service["spec"]["ports"].as_array();
    let mut all: Vec<u16> = ports.into_iter().flatten().filter_map(|p| port(&p["nodePort"])).collect();
    all.extend(port(&service["spec"]["healthCheckNodePort"]));
    all.sort_unstable();
    all.dedup();
    all
}

fn port(v: &Value) -> Option<u16> {
    v.as_u64().and_then(|n| u16::try_from(n).ok()).filter(|n| *n != 0)
}

/// Takes the ports that the object names and has not yet, and one for each that it left open.
pub async fn take(
    t: &Target<'_>,
    pools: &Pools,
    new: &mut Value,
    old: Option<&Value>,
    reserved: &mut Reserved,
) -> Result<()> {
    let before = old.map(of).unwrap_or_default();
    let count = new["spec"]["ports"].as_array().map_or(0, Vec::len);
    let open = needs_node_ports(new);
    let mut mine: Vec<u16> = before.clone();
    for i in 0..count {
        let asked = port(&new["spec"]["ports"][i]["nodePort"]);
        match asked {
            Some(n) if mine.contains(&n) => {}
            Some(n) => {
                let at = spec_path("ports").index(i).child("nodePort");
                let taken = claim(t, pools, Some(n)).await;
                taken.map_err(|e| named(t, e, &at, n))?;
                mine.push(n);
                reserved.ports.extend((!t.dry_run).then_some(n));
            }
            None if open => {
                let n = match twin(new, i) {
                    Some(n) => n,
                    None => {
                        let n = claim(t, pools, None).await.map_err(|e| unnamed(e, "nodePort"))?;
                        reserved.ports.extend((!t.dry_run).then_some(n));
                        n
                    }
                };
                mine.push(n);
                new["spec"]["ports"][i]["nodePort"] = n.into();
            }
            None => {}
        }
    }
    health(t, pools, new, &mut mine, reserved).await?;
    let now = of(new);
    reserved.old_ports = before.into_iter().filter(|b| !now.contains(b)).collect();
    Ok(())
}

/// The same port over another protocol has the same node port.
fn twin(service: &Value, i: usize) -> Option<u16> {
    let ports = service["spec"]["ports"].as_array()?;
    let this = &ports[i];
    ports[..i]
        .iter()
        .find(|p| p["port"] == this["port"] && p["protocol"] != this["protocol"])
        .and_then(|p| port(&p["nodePort"]))
}

async fn health(
    t: &Target<'_>,
    pools: &Pools,
    new: &mut Value,
    mine: &mut Vec<u16>,
    reserved: &mut Reserved,
) -> Result<()> {
    if !needs_health_port(new) {
        return Ok(());
    }
    let asked = port(&new["spec"]["healthCheckNodePort"]);
    if asked.is_some_and(|n| mine.contains(&n)) {
        return Ok(());
    }
    let n = claim(t, pools, asked).await.map_err(|e| match asked {
        Some(n) => {
            Status::internal(format!("failed to allocate requested HealthCheck NodePort {n}: {}", e.text()))
        }
        None => unnamed(e, "HealthCheck NodePort"),
    })?;
    reserved.ports.extend((!t.dry_run).then_some(n));
    mine.push(n);
    new["spec"]["healthCheckNodePort"] = n.into();
    Ok(())
}

enum Refusal {
    Full,
    Allocated,
    /// Outside the range.
    Outside(String),
    Store(Status),
}

impl Refusal {
    fn text(&self) -> String {
        match self {
            Refusal::Full => "range is full".into(),
            Refusal::Allocated => "provided port is already allocated".into(),
            Refusal::Outside(range) => {
                format!("provided port is not in the valid range. The range of valid ports is {range}")
            }
            Refusal::Store(s) => s.message.clone(),
        }
    }
}

fn named(t: &Target<'_>, e: Refusal, at: &api::field::Path, n: u16) -> Status {
    match e {
        Refusal::Store(s) => s,
        other => invalid(t, vec![Error::invalid(at, n, other.text())]),
    }
}

fn unnamed(e: Refusal, what: &str) -> Status {
    match e {
        Refusal::Store(s) => s,
        other => Status::internal(format!("failed to allocate a {what}: {}", other.text())),
    }
}

async fn claim(t: &Target<'_>, pools: &Pools, asked: Option<u16>) -> std::result::Result<u16, Refusal> {
    let (base, count) = pools.node_ports;
    if let Some(n) = asked
        && !(n >= base && n - base < count)
    {
        return Err(Refusal::Outside(format!("{base}-{}", base + (count - 1))));
    }
    change(pools, t.dry_run, |bits| {
        let free = |i: u16| !get(bits, i);
        let i = match asked {
            Some(n) if free(n - base) => n - base,
            Some(_) => return Err(Refusal::Allocated),
            None => {
                // The low part is left to those who name their ports.
                let low = (count / 32).clamp(16, 128).min(count);
                let start = if count > low { low + rand::rng().random_range(0..count - low) } else { 0 };
                let place = |i: u16| ((u32::from(start) + u32::from(i)) % u32::from(count)) as u16;
                let high = (0..count).map(place).find(|i| free(*i) && *i >= low);
                high.or_else(|| (0..count).find(|i| free(*i))).ok_or(Refusal::Full)?
            }
        };
        set(bits, i, true);
        Ok(base + i)
    })
    .await
}

fn get(bits: &[u8], i: u16) -> bool {
    let byte = usize::from(i / 8);
    bits.len() > byte && bits[bits.len() - 1 - byte] & (1 << (i % 8)) != 0
}

/// Bits count from the last byte: the map is one large number, its highest byte first.
fn set(bits: &mut Vec<u8>, i: u16, on: bool) {
    let byte = usize::from(i / 8);
    while bits.len() <= byte {
        bits.insert(0, 0);
    }
    let at = bits.len() - 1 - byte;
    if on { bits[at] |= 1 << (i % 8) } else { bits[at] &= !(1 << (i % 8)) }
}

/// Reads the bitmap, changes it and writes it, until nobody else was faster.
async fn change<T>(
    pools: &Pools,
    dry_run: bool,
    work: impl Fn(&mut Vec<u8>) -> std::result::Result<T, Refusal>,
) -> std::result::Result<T, Refusal> {
    let key = format!("{}servicenodeports", pools.bitmaps.prefix());
    let fail = |e: storage::Error| {
        Refusal::Store(crate::errors::storage(e, "", "rangeallocations", "servicenodeports"))
    };
    let (base, count) = pools.node_ports;
    let range = format!("{base}-{}", base + (count - 1));
    // Of this server's own writes one at a time: they would only make each other try again.
    let _turn = pools.turn.lock().await;
    for attempt in 0..ATTEMPTS {
        let found = pools.bitmaps.get_live(&key).await.map_err(fail)?;
        let mut bits = match &found {
            Some(object) => read(&object.bytes(), &range).map_err(Refusal::Store)?,
            None => Vec::new(),
        };
        let out = work(&mut bits)?;
        if dry_run {
            return Ok(out);
        }
        while bits.first() == Some(&0) {
            bits.remove(0);
        }
        let bytes = write(&bits, &range).map_err(Refusal::Store)?;
        let written = match &found {
            Some(object) => pools.bitmaps.update(&key, object.revision, bytes, None).await,
            None => pools.bitmaps.create(&key, bytes, None).await,
        };
        match written {
            Ok(_) => return Ok(out),
            Err(storage::Error::Conflict { .. } | storage::Error::AlreadyExists { .. }) => {
                let pause = rand::random_range(0..=attempt.min(20));
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
            Err(e) => return Err(fail(e)),
        }
    }
    Err(Refusal::Store(Status::modified("", "rangeallocations", "servicenodeports")))
}

/// The ports that the bitmap has.
pub(super) async fn allocated(pools: &Pools) -> Result<BTreeSet<u16>> {
    let (base, count) = pools.node_ports;
    let read =
        change(pools, true, |bits| Ok((0..count).filter(|i| get(bits, *i)).map(|i| base + i).collect()));
    read.await.map_err(|e| Status::internal(e.text()))
}

/// Takes and frees ports as a repair has found them.
pub(super) async fn correct(pools: &Pools, taken: &[u16], freed: &[u16]) -> Result<()> {
    if taken.is_empty() && freed.is_empty() {
        return Ok(());
    }
    let base = pools.node_ports.0;
    let done = change(pools, false, |bits| {
        taken.iter().for_each(|n| set(bits, n - base, true));
        freed.iter().for_each(|n| set(bits, n - base, false));
        Ok(())
    });
    done.await.map_err(|e| Status::internal(e.text()))
}

fn gvk() -> GroupVersionKind {
    GroupVersionKind::new("", "v1", "RangeAllocation")
}

fn read(bytes: &Bytes, range: &str) -> Result<Vec<u8>> {
    let damaged = || Status::internal("the node port allocations cannot be read");
    let message = api::schema::for_kind(&gvk()).ok_or_else(damaged)?;
    let raw = envelope::message(bytes).ok_or_else(damaged)?;
    let value = api::protobuf::to_value(message, None, &raw).map_err(Status::internal)?;
    let stored = value["range"].as_str().unwrap_or_default();
    if !stored.is_empty() && stored != range {
        // The flag was changed: what is allocated keeps its numbers, counted from the new base.
        return Ok(rebase(&value, stored, range).unwrap_or_default());
    }
    STANDARD.decode(value["data"].as_str().unwrap_or_default()).map_err(|_| damaged())
}

fn rebase(value: &Value, from: &str, to: &str) -> Option<Vec<u8>> {
    let ends = |r: &str| {
        let (a, b) = r.split_once('-')?;
        Some((a.parse::<u16>().ok()?, b.parse::<u16>().ok()?))
    };
    let ((old_base, old_end), (base, end)) = (ends(from)?, ends(to)?);
    let bits = STANDARD.decode(value["data"].as_str()?).ok()?;
    let mut out = Vec::new();
    for n in (old_base..=old_end).filter(|n| get(&bits, n - old_base) && (base..=end).contains(n)) {
        set(&mut out, n - base, true);
    }
    Some(out)
}

fn write(bits: &[u8], range: &str) -> Result<Bytes> {
    let message = api::schema::for_kind(&gvk())
        .ok_or_else(|| Status::internal("RangeAllocation has no field table"))?;
    let value = json!({"metadata": {}, "range": range, "data": STANDARD.encode(bits)});
    let raw = api::protobuf::encode(message, &value).map_err(Status::internal)?;
    Ok(envelope::wrap("v1", "RangeAllocation", raw.len(), |o| o.extend_from_slice(&raw)))
}

/// Frees ports.
pub async fn give_back(server: &Server, ports: &[u16]) {
    let Some(pools) = &server.special.pools else { return };
    if ports.is_empty() {
        return;
    }
    let base = pools.node_ports.0;
    let freed = change(pools, false, |bits| {
        ports.iter().filter(|n| **n >= base).for_each(|n| set(bits, n - base, false));
        Ok(())
    });
    if let Err(e) = freed.await {
        tracing::warn!(?ports, error = e.text(), "node ports could not be given back");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bitmap_is_one_big_number() {
        let mut bits = Vec::new();
        set(&mut bits, 0, true);
        set(&mut bits, 9, true);
        assert_eq!(bits, [0b10, 0b1]);
        assert!(get(&bits, 9) && get(&bits, 0) && !get(&bits, 1) && !get(&bits, 2000));
        set(&mut bits, 9, false);
        assert_eq!(read(&write(&bits, "30000-32767").unwrap(), "30000-32767").unwrap(), [0, 1]);
    }

    #[test]
    fn a_new_range_keeps_the_numbers() {
        let mut bits = Vec::new();
        set(&mut bits, 100, true);
        let moved = read(&write(&bits, "30000-32767").unwrap(), "30050-30200").unwrap();
        assert!(get(&moved, 50) && !get(&moved, 100));
    }
}
