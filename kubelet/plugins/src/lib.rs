//! What runs beside the kubelet and talks to it over sockets: plugins that register ([`watcher`]), device plugins
//! ([`devices`]), drivers of dynamic resources ([`dra`]), those who ask which pod has which ([`pod_resources`]).
//!
//! Nothing here polls: folders are watched, plugins' streams are listened to, and a kubelet without plugins spends
//! nothing on them.

mod connect;
pub mod devices;
pub mod dra;
mod lenient;
pub mod pod_resources;
pub mod watcher;

pub use connect::connect;
pub use devices::DeviceManager;
pub use watcher::{Handler, PluginInfo, Watcher};

/// The messages of plugin registration, v1.
#[allow(clippy::all, missing_docs)]
pub mod registration {
    tonic::include_proto!("pluginregistration");
}

/// The messages of the device plugin API, v1beta1.
#[allow(clippy::all, missing_docs)]
pub mod device_api {
    tonic::include_proto!("v1beta1");
}

/// The messages of the pod resources API, v1.
#[allow(clippy::all, missing_docs)]
pub mod pod_resources_api {
    tonic::include_proto!("v1");
}

/// The messages of the APIs whose package is called v1alpha1: how the devices of DRA are, and pod resources.
#[allow(clippy::all, missing_docs)]
pub mod alpha_api {
    tonic::include_proto!("v1alpha1");
}

/// The messages of the DRA plugin API, v1 and v1beta1.
#[allow(clippy::all, missing_docs)]
pub mod dra_api {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("k8s.io.kubelet.pkg.apis.dra.v1");
    }
    pub use crate::alpha_api as health;
    /// Version 1, beta 1.
    pub mod v1beta1 {
        tonic::include_proto!("k8s.io.kubelet.pkg.apis.dra.v1beta1");
    }
}
