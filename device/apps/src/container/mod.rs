//! Containers: what the OCI runtime is told about an application, and the runtime's command line.

mod bundle;
mod children;
mod mounts;
mod name_servers;
mod runtime;
mod seccomp;
mod spec;

pub use bundle::{Bundle, BundleError};
pub use children::{Adopted, Children};
pub use mounts::own_mount_namespace;
pub use name_servers::NameServers;
pub use runtime::{Container, Exec, Runtime, RuntimeError, enter_network};
pub use spec::{Confinement, configuration, ready_process};
