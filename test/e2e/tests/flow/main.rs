//! The way of a new user through one cluster of one node: everything that kubectl offers, the Service, and what
//! happens when things die.

mod change;
mod common;
mod death;
mod devices;
mod limits;
mod look;
mod remove;
mod service;
mod storage;
mod talk;
mod typed;

use std::process::ExitCode;

fn main() -> ExitCode {
    e2e::run::run(
        "flow",
        &[],
        &[
            ("the node is Ready and the system pods run", look::node_ready),
            ("apply makes a Deployment, a Service and a Job", look::apply),
            ("get: table, wide, yaml, jsonpath, selectors", look::get),
            ("get --watch shows changes", look::watch),
            ("describe", look::describe),
            ("explain, api-resources, api-versions, cluster-info", look::discovery),
            ("auth can-i, for oneself and others", look::can_i),
            ("configuration and secrets arrive in files and environment", talk::configuration),
            ("logs: whole, followed, previous", talk::logs),
            ("exec: output, input, exit code, terminal", talk::exec),
            ("attach and run -i", talk::attach),
            ("cp both ways", talk::copy),
            ("port-forward to pod and Service", talk::port_forward),
            ("a changed ConfigMap reaches running pods", talk::changed_configuration),
            ("scale", change::scale),
            ("set image, rollout status, history, undo", change::rollout),
            ("label and annotate", change::label),
            ("patch: json, merge, strategic, subresource", change::patch),
            ("edit", change::edit),
            ("apply --server-side and its conflicts", change::server_side),
            ("diff", change::diff),
            ("a watch and an update through kube-rs", typed::kube_rs),
            ("the Service answers on its ClusterIP and NodePort, from node and pods", service::answers),
            ("names of Services and pods are resolved", service::names),
            ("the Service spreads over its endpoints", service::spreads),
            ("the Service leaves out a pod that is not ready", service::leaves_out_unready),
            ("a killed container is started again, with back-off", death::container),
            ("killed daemons disturb no container and lose nothing", death::daemons),
            ("a rebooted kubelet ends pods deleted meanwhile", death::deleted_meanwhile),
            ("a pod that fills its volume is evicted", limits::size),
            ("a subPath does not lead out of its volume", limits::sub_path),
            ("a CSI driver registers", storage::driver),
            ("a CSI volume is attached and mounted", storage::volume),
            ("a CSI volume grows", storage::growth),
            ("a CSI volume survives a killed kubelet and leaves nothing", storage::restart),
            ("a device plugin's devices are given", devices::plugin),
            ("a device that fails is told of", devices::health),
            ("devices stay with their pods over a kubelet's end", devices::restart),
            ("a claim of dynamic resources is prepared and taken back", devices::claims),
            ("delete: background, foreground, orphan", remove::delete),
            ("delete namespace", remove::namespace),
        ],
    )
}
