//! Which plugins run, and in which order.

use crate::attributes::{Attributes, Operation};
use anyhow::bail;
use api::registry::Registry;
use api::status::Result;
use auth::Authorizer;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// One admission plugin. A plugin overrides what it has: changing, judging or both.
#[async_trait::async_trait]
pub trait Plugin: Send + Sync {
    /// As in `--enable-admission-plugins`.
    fn name(&self) -> &'static str;
    fn handles(&self, operation: Operation) -> bool;
    /// May change `a.object`.
    async fn admit(&self, _a: &mut Attributes) -> Result<()> {
        Ok(())
    }
    /// Judges the final object; may only add warnings and annotations.
    async fn validate(&self, _a: &mut Attributes) -> Result<()> {
        Ok(())
    }
}

/// What plugins work with.
#[derive(Clone)]
pub struct Deps {
    pub registry: Arc<dyn Registry>,
    pub authorizer: Arc<dyn Authorizer>,
    /// Feature gates by name.
    pub gate: Arc<dyn Fn(&str) -> bool + Send + Sync>,
}

/// The admission flags.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `--enable-admission-plugins`
    pub enable: Vec<String>,
    /// `--disable-admission-plugins`
    pub disable: Vec<String>,
    /// `--admission-control-config-file`
    pub config_file: Option<PathBuf>,
}

/// The plugins of a server.
pub struct Chain {
    plugins: Vec<Arc<dyn Plugin>>,
}

impl Chain {
    pub fn new(options: &Options, deps: &Deps) -> anyhow::Result<Self> {
        let table = crate::chain::table();
        for name in options.enable.iter().chain(&options.disable) {
            if !table.iter().any(|row| row.0 == name) {
                bail!("enable-admission-plugins plugin {name:?} is unknown");
            }
            if options.enable.contains(name) && options.disable.contains(name) {
                bail!("{name} in enable-admission-plugins and disable-admission-plugins overlapped");
            }
        }
        let _ = (deps, BTreeMap::<String, String>::new());
        Ok(Chain { plugins: Vec::new() })
    }

    /// Only these plugins, in this order.
    pub fn of(plugins: Vec<Arc<dyn Plugin>>) -> Self {
        Chain { plugins }
    }

    /// Lets every plugin change the object.
    pub async fn admit(&self, a: &mut Attributes) -> Result<()> {
        let operation = a.operation;
        for plugin in self.plugins.iter().filter(|p| p.handles(operation)) {
            plugin.admit(a).await?;
        }
        Ok(())
    }

    /// Lets every plugin judge the object as it is to be stored.
    pub async fn validate(&self, a: &mut Attributes) -> Result<()> {
        let operation = a.operation;
        for plugin in self.plugins.iter().filter(|p| p.handles(operation)) {
            plugin.validate(a).await?;
        }
        Ok(())
    }

    pub fn names(&self) -> Vec<&'static str> {
        self.plugins.iter().map(|p| p.name()).collect()
    }
}

fn table() -> &'static [(&'static str, bool)] {
    &[]
}
