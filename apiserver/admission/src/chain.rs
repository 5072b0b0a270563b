//! Which plugins run, and in which order.

use crate::attributes::{Attributes, Operation};
use crate::metrics::{Meter, Step};
use crate::plugins::{self, Row};
use anyhow::{Context, bail};
use api::registry::Registry;
use api::status::Result;
use auth::Authorizer;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

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
    /// `--default-not-ready-toleration-seconds` and `--default-unreachable-toleration-seconds`.
    pub toleration_seconds: (i64, i64),
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

impl Options {
    fn check(&self) -> anyhow::Result<()> {
        for (flag, names) in
            [("enable-admission-plugins", &self.enable), ("disable-admission-plugins", &self.disable)]
        {
            if let Some(name) = names.iter().find(|n| !plugins::TABLE.iter().any(|row| row.name == **n)) {
                bail!("{flag} plugin {name:?} is unknown");
            }
        }
        if let Some(name) = self.enable.iter().find(|n| self.disable.contains(n)) {
            bail!("{name:?} in enable-admission-plugins and disable-admission-plugins overlapped");
        }
        Ok(())
    }

    fn wants(&self, row: &Row) -> bool {
        let named = |list: &[String]| list.iter().any(|n| n == row.name);
        named(&self.enable) || row.default_on && !named(&self.disable)
    }
}

/// The plugins of a server.
pub struct Chain {
    plugins: Vec<Measured>,
    steps: Meter,
}

/// A plugin and its series.
struct Measured {
    plugin: Arc<dyn Plugin>,
    meter: Meter,
}

impl Chain {
    pub fn new(options: &Options, deps: &Deps) -> anyhow::Result<Self> {
        options.check()?;
        let mut configs = match &options.config_file {
            Some(path) => crate::config::load(path)?,
            None => HashMap::new(),
        };
        let mut chain = Vec::new();
        for row in plugins::TABLE.iter().filter(|row| options.wants(row)) {
            let config = configs.remove(row.name).filter(|c| !c.is_null());
            match row.make {
                Some(make) => {
                    let made = make(deps, config.as_ref());
                    chain.push(made.with_context(|| format!("admission plugin {:?}", row.name))?);
                }
                None if options.enable.iter().any(|n| n == row.name) => {
                    tracing::warn!(plugin = row.name, "this admission plugin has no effect in this server");
                }
                None => {}
            }
        }
        Ok(Chain::of(chain))
    }

    /// Only these plugins, in this order.
    pub fn of(plugins: Vec<Arc<dyn Plugin>>) -> Self {
        let measured = |plugin: Arc<dyn Plugin>| Measured { meter: Meter::of(plugin.name()), plugin };
        Chain { plugins: plugins.into_iter().map(measured).collect(), steps: Meter::steps() }
    }

    /// Lets every plugin change the object; once more if a webhook wants to see what others did.
    pub async fn admit(&self, a: &mut Attributes) -> Result<()> {
        let (operation, began) = (a.operation, Instant::now());
        let mut done = self.admit_once(a).await;
        if done.is_ok() && a.reinvocation.wanted {
            a.reinvocation.second_round = true;
            done = self.admit_once(a).await;
        }
        self.steps.observe(Step::Admit, operation, began, done.is_ok());
        done
    }

    async fn admit_once(&self, a: &mut Attributes) -> Result<()> {
        let operation = a.operation;
        for measured in self.plugins.iter().filter(|m| m.plugin.handles(operation)) {
            let began = Instant::now();
            let done = measured.plugin.admit(a).await;
            measured.meter.observe(Step::Admit, operation, began, done.is_ok());
            done?;
        }
        Ok(())
    }

    /// Lets every plugin judge the object as it is to be stored.
    pub async fn validate(&self, a: &mut Attributes) -> Result<()> {
        let began = Instant::now();
        let done = self.validate_once(a).await;
        self.steps.observe(Step::Validate, a.operation, began, done.is_ok());
        done
    }

    async fn validate_once(&self, a: &mut Attributes) -> Result<()> {
        let operation = a.operation;
        for measured in self.plugins.iter().filter(|m| m.plugin.handles(operation)) {
            let began = Instant::now();
            let done = measured.plugin.validate(a).await;
            measured.meter.observe(Step::Validate, operation, began, done.is_ok());
            done?;
        }
        Ok(())
    }

    pub fn names(&self) -> Vec<&'static str> {
        self.plugins.iter().map(|m| m.plugin.name()).collect()
    }
}
