//! From the storage flags to a [`storage::Config`].

use crate::codec::Media;
use crate::options::{Options, path};
use anyhow::{Context, bail};
use std::time::Duration;
use storage::{Config, EncryptionFile, Override, Tls};

/// What the flags say of etcd, checked.
pub fn config(options: &Options) -> anyhow::Result<Config> {
    let flags = &options.flags;
    let backend = flags.str("storage-backend");
    if !matches!(backend, "" | "etcd3") {
        bail!(
            "--storage-backend invalid, allowed values: etcd3. If not specified, it will default to 'etcd3'"
        );
    }
    Media::parse(flags.str("storage-media-type"))?;
    let mut config = Config::new(flags.list("etcd-servers"));
    config.tls = Tls {
        ca_file: path(flags, "etcd-cafile"),
        cert_file: path(flags, "etcd-certfile"),
        key_file: path(flags, "etcd-keyfile"),
    };
    config.prefix = prefix(options);
    config.compaction_interval = flags.duration("etcd-compaction-interval");
    config.health_timeout = flags.duration("etcd-healthcheck-timeout");
    config.ready_timeout = flags.duration("etcd-readycheck-timeout");
    config.size_interval = flags.duration("etcd-db-metric-poll-interval");
    config.lease_reuse =
        Duration::from_secs(u64::try_from(flags.int("lease-reuse-duration-seconds")).unwrap_or(60));
    config.encryption = encryption(options)?;
    for entry in flags.list("etcd-servers-overrides") {
        config.overrides.push(overridden(options, &entry)?);
    }
    Ok(config)
}

/// `--etcd-prefix`, with one slash in front and none behind.
pub fn prefix(options: &Options) -> String {
    format!("/{}", options.flags.str("etcd-prefix").trim_matches('/'))
}

/// A prefix of the resource table under `--etcd-prefix`.
pub fn moved(options: &Options, table: &str) -> String {
    table
        .strip_prefix("/registry")
        .map_or_else(|| table.to_owned(), |rest| format!("{}{rest}", prefix(options)))
}

fn encryption(options: &Options) -> anyhow::Result<Option<EncryptionFile>> {
    let flags = &options.flags;
    let reload = flags.bool("encryption-provider-config-automatic-reload");
    let Some(file) = path(flags, "encryption-provider-config").filter(|p| !p.as_os_str().is_empty()) else {
        if reload {
            bail!(
                "--encryption-provider-config-automatic-reload must be set with --encryption-provider-config"
            );
        }
        return Ok(None);
    };
    let server = format!("{}:{}", options.advertise, options.port);
    Ok(Some(EncryptionFile { path: file, reload, server }))
}

fn overridden(options: &Options, entry: &str) -> anyhow::Result<Override> {
    let wrong = || {
        format!(
            "--etcd-servers-overrides invalid, must be of format: group/resource#servers, where servers are URLs, semicolon separated: {entry:?}"
        )
    };
    let (resource, servers) = entry.split_once('#').with_context(wrong)?;
    let (group, name) = resource.split_once('/').with_context(wrong)?;
    let endpoints: Vec<String> = servers.split(';').filter(|s| !s.is_empty()).map(str::to_owned).collect();
    if endpoints.is_empty() {
        bail!(wrong());
    }
    let row = api::resources::builtin().iter().find(|r| r.group == group && r.resource == name);
    let table = row.and_then(|r| r.etcd.as_ref()).with_context(|| {
        format!("--etcd-servers-overrides names no resource that is stored: {resource:?}")
    })?;
    Ok(Override { prefix: moved(options, &table.prefix), endpoints })
}
