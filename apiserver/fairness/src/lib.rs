//! API priority and fairness: which requests are worked on now, which wait for their turn, and which are refused.
//!
//! - [`schema`]: FlowSchemas: to which level and flow a request belongs
//! - [`level`]: one priority level: seats, and queues that flows are dealt to
//! - [`limits`]: how the server's seats are shared between levels, and lent by idle ones to busy ones
//! - [`dump`]: what operators see of it
//!
//! Nothing here knows HTTP or storage: the server tells what the objects say ([`Fairness::configure`]) and asks for
//! a [`Ticket`] for each request.

pub mod dump;
pub mod level;
pub mod limits;
mod metrics;
pub mod schema;

pub use level::{Refusal, Ticket};
pub use schema::{Digest, Schema};

use api::Value;
use arc_swap::ArcSwap;
use level::{Flow, Level, Width};
use metrics::Metrics;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The level and the schema that must be there, whatever anybody does to the objects.
pub const EXEMPT: &str = "exempt";
pub const CATCH_ALL: &str = "catch-all";

/// What the objects say at one moment.
#[derive(Default)]
struct Config {
    /// In the order in which they are tried.
    schemas: Vec<Arc<Schema>>,
    levels: BTreeMap<String, Arc<Level>>,
}

/// The seats of a server and who sits on them.
pub struct Fairness {
    /// Requests at a time, of all levels that are limited.
    total: usize,
    /// How long a request may wait for a seat.
    patience: Duration,
    metrics: Arc<Metrics>,
    config: ArcSwap<Config>,
    /// Levels whose objects are gone and that still have requests.
    leaving: Mutex<Vec<Arc<Level>>>,
}

/// Where a request belongs.
pub struct Place {
    pub schema: Arc<Schema>,
    level: Arc<Level>,
}

impl Place {
    pub fn level_uid(&self) -> String {
        self.level.uid()
    }
}

impl Fairness {
    pub fn new(total: usize, patience: Duration) -> Fairness {
        Fairness {
            total,
            patience,
            metrics: Metrics::shared(),
            config: ArcSwap::default(),
            leaving: Mutex::default(),
        }
    }

    /// Takes over what the objects say now. Requests that wait or are worked on stay where they are.
    pub fn configure(&self, levels: &[Arc<Value>], schemas: &[Arc<Value>]) {
        let old = self.config.load();
        let name = |o: &Value| o["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let nominal = limits::nominal(self.total, levels);
        let mut new = BTreeMap::new();
        for object in levels {
            let bounds = nominal.get(&name(object)).copied().unwrap_or_default();
            let level = match old.levels.get(&name(object)) {
                Some(level) => {
                    level.change(object, bounds);
                    level.clone()
                }
                None => self.returning(&name(object), object, bounds),
            };
            new.insert(name(object), level);
        }
        let mut leaving = self.leaving.lock();
        leaving.extend(old.levels.iter().filter(|(n, _)| !new.contains_key(*n)).map(|(_, l)| l.clone()));
        leaving.retain(|l| {
            !l.is_idle() || {
                l.forget();
                false
            }
        });
        drop(leaving);
        let mut all: Vec<Arc<Schema>> = schemas
            .iter()
            .filter_map(|object| Schema::of(object))
            .filter(|s| new.contains_key(&s.level))
            .map(Arc::new)
            .collect();
        all.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        self.config.store(Arc::new(Config { schemas: all, levels: new }));
    }

    fn returning(&self, name: &str, object: &Value, bounds: limits::Bounds) -> Arc<Level> {
        let mut leaving = self.leaving.lock();
        match leaving.iter().position(|l| l.name() == name) {
            Some(i) => {
                let level = leaving.swap_remove(i);
                level.change(object, bounds);
                level
            }
            None => Arc::new(Level::new(object, bounds, self.metrics.clone())),
        }
    }

    /// The schema and the level of a request; `None` before anything is known of the objects.
    pub fn classify(&self, digest: &Digest<'_>) -> Option<Place> {
        let config = self.config.load();
        let schema = config.schemas.iter().find(|s| s.fits(digest))?;
        let level = config.levels.get(&schema.level)?;
        Some(Place { schema: schema.clone(), level: level.clone() })
    }

    /// How many seats a list of so many objects takes in its level.
    pub fn width_of_list(&self, place: &Place, objects: usize) -> Width {
        Width::of_list(objects, place.level.most_seats())
    }

    /// Waits for seats.
    pub async fn admit(&self, place: &Place, digest: &Digest<'_>, width: Width) -> Result<Ticket, Refusal> {
        let flow = Flow { schema: &place.schema, distinguisher: place.schema.distinguisher(digest) };
        place.level.admit(flow, digest, width, self.patience).await
    }

    /// Lends seats of idle levels to busy ones, by what they wanted since the last time. To be called every
    /// [`limits::PERIOD`].
    pub fn rebalance(&self) {
        let config = self.config.load();
        let levels: Vec<&Arc<Level>> = config.levels.values().collect();
        let fraction = limits::rebalance(self.total, &levels);
        self.metrics.fair_fraction.set(fraction);
        self.leaving.lock().retain(|l| {
            !l.is_idle() || {
                l.forget();
                false
            }
        });
    }

    fn levels(&self) -> Vec<(Arc<Level>, bool)> {
        let config = self.config.load();
        let mut out: Vec<_> = config.levels.values().map(|l| (l.clone(), false)).collect();
        out.extend(self.leaving.lock().iter().map(|l| (l.clone(), true)));
        out.sort_by(|a, b| a.0.name().cmp(b.0.name()));
        out
    }
}

#[cfg(test)]
mod tests;
