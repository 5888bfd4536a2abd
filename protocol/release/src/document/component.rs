//! One component of a release: an operating system, an application or a configuration.

use protocol_types::{
    AppName, ApplicationSpec, Architecture, BoardName, Digest, ReleaseVersion, RunSettings, TargetPath,
};
use serde::{Deserialize, Serialize};

use crate::metadata::Delegate;

/// One component, named by digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct Component {
    /// What it is.
    pub kind: Kind,
    /// Path of the target that holds it; the role delegated for that path must list the same digest and size.
    pub path: TargetPath,
    /// Digest of the target: an OS index, an OCI image index or manifest, or a configuration document.
    pub digest: Digest,
    /// Length of the target in bytes.
    pub size: u64,
    /// Version of the component itself.
    pub version: ReleaseVersion,
    /// The boards it fits; empty means any.
    pub boards: Vec<BoardName>,
    /// The processor architectures it fits; empty means any.
    pub architectures: Vec<Architecture>,
    /// The lowest generation of `mbl-updater` that can install it.
    pub minimum_updater: u32,
}

/// What a component is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The operating system; its target is an OS index.
    Os,
    /// An application; its target is an OCI image index or manifest.
    Application {
        /// The application.
        name: AppName,
        /// The permissions and limits it runs with.
        run: RunSettings,
    },
    /// A configuration document.
    Configuration {
        /// The configuration; same rule as for an application's name.
        name: AppName,
    },
}

impl Component {
    /// The folder of targets in which a component of this kind must live.
    pub(crate) fn folder(&self) -> String {
        match &self.kind {
            Kind::Os => "os/".to_owned(),
            Kind::Application { name, .. } => format!("apps/{name}/"),
            Kind::Configuration { name } => format!("configuration/{name}/"),
        }
    }

    /// The delegated role that must list this component; none if that is `targets` itself.
    pub fn delegate(&self) -> Option<Delegate> {
        match &self.kind {
            Kind::Os => Some(Delegate::Os),
            Kind::Application { name, .. } => Some(Delegate::App(name.clone())),
            Kind::Configuration { .. } => None,
        }
    }

    /// What `mbl-apps` needs to know, if this is an application.
    pub fn application(&self) -> Option<ApplicationSpec> {
        match &self.kind {
            Kind::Application { name, run } => Some(ApplicationSpec {
                name: name.clone(),
                version: self.version.clone(),
                digest: self.digest,
                size: self.size,
                run: run.clone(),
            }),
            Kind::Os | Kind::Configuration { .. } => None,
        }
    }
}

/// The JSON form, flat as the format page shows it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    kind: WireKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<AppName>,
    path: TargetPath,
    digest: Digest,
    size: u64,
    version: ReleaseVersion,
    boards: Vec<BoardName>,
    architectures: Vec<Architecture>,
    minimum_updater: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    run: Option<RunSettings>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WireKind {
    Os,
    Application,
    Configuration,
}

impl TryFrom<Wire> for Component {
    type Error = &'static str;

    fn try_from(wire: Wire) -> Result<Self, &'static str> {
        let kind = match (wire.kind, wire.name, wire.run) {
            (WireKind::Os, None, None) => Kind::Os,
            (WireKind::Os, ..) => return Err("an `os` component has neither `name` nor `run`"),
            (WireKind::Application, Some(name), Some(run)) => Kind::Application { name, run },
            (WireKind::Application, ..) => return Err("an `application` component needs `name` and `run`"),
            (WireKind::Configuration, Some(name), None) => Kind::Configuration { name },
            (WireKind::Configuration, ..) => return Err("a `configuration` component has a `name` and no `run`"),
        };
        Ok(Self {
            kind,
            path: wire.path,
            digest: wire.digest,
            size: wire.size,
            version: wire.version,
            boards: wire.boards,
            architectures: wire.architectures,
            minimum_updater: wire.minimum_updater,
        })
    }
}

impl From<Component> for Wire {
    fn from(component: Component) -> Self {
        let (kind, name, run) = match component.kind {
            Kind::Os => (WireKind::Os, None, None),
            Kind::Application { name, run } => (WireKind::Application, Some(name), Some(run)),
            Kind::Configuration { name } => (WireKind::Configuration, Some(name), None),
        };
        Self {
            kind,
            name,
            path: component.path,
            digest: component.digest,
            size: component.size,
            version: component.version,
            boards: component.boards,
            architectures: component.architectures,
            minimum_updater: component.minimum_updater,
            run,
        }
    }
}
