//! The objects that this project uses: 0, 1, 3, 4, 5 and 9 of the standard, and 26241 to 26244 of its own. Kept equal to `docs/lwm2m/*.xml`.

use super::{
    Object, Operations,
    Operations::{E, R, RW, W},
    Resource, Type,
};

/// Ids that code names.
pub mod ids {
    /// LwM2M Security.
    pub const SECURITY: u16 = 0;
    /// LwM2M Server.
    pub const SERVER: u16 = 1;
    /// Device.
    pub const DEVICE: u16 = 3;
    /// Connectivity Monitoring.
    pub const CONNECTIVITY: u16 = 4;
    /// Firmware Update.
    pub const FIRMWARE: u16 = 5;
    /// Software Management.
    pub const SOFTWARE: u16 = 9;
    /// MBL Release.
    pub const RELEASE: u16 = 26_241;

    /// MBL Configuration.
    pub const CONFIGURATION: u16 = 26_242;

    /// Resources of object 26242.
    pub mod configuration {
        /// The document that the device should have.
        pub const DOCUMENT: u16 = 0;
        /// Counts the changes of the document.
        pub const GENERATION: u16 = 1;
        /// What became of the document.
        pub const STATE: u16 = 2;
        /// The generation that the state belongs to.
        pub const REPORTED_GENERATION: u16 = 3;
        /// Digest of the document in force.
        pub const DIGEST: u16 = 4;
        /// Stable code of the reason.
        pub const REASON_CODE: u16 = 5;
        /// The reason in a sentence.
        pub const REASON: u16 = 6;
        /// The public key to which secrets of this device are sealed.
        pub const SEALING_KEY: u16 = 7;
    }

    /// MBL Metrics.
    pub const METRICS: u16 = 26_243;

    /// Resources of object 26243.
    pub mod metrics {
        /// What was measured and not yet acknowledged: a batch.
        pub const SAMPLES: u16 = 0;
        /// The number of the newest sample that the service has on disk.
        pub const ACKNOWLEDGED: u16 = 1;
        /// Bytes that the device may send in a day to say how it is.
        pub const BUDGET: u16 = 2;
        /// Samples that were dropped since the agent began.
        pub const DROPPED: u16 = 3;
        /// The newest value of the metric with the number 0; the others follow in the order of their numbers.
        pub const FIRST_VALUE: u16 = 10;
    }

    /// MBL Job.
    pub const JOB: u16 = 26_244;

    /// Resources of object 26244.
    pub mod job {
        /// Id of the job that is asked for.
        pub const ID: u16 = 0;
        /// What kind of job.
        pub const KIND: u16 = 1;
        /// Its arguments, a JSON object.
        pub const ARGUMENTS: u16 = 2;
        /// How far the newest job is.
        pub const STATE: u16 = 3;
        /// Id of the newest job.
        pub const REPORTED_ID: u16 = 4;
        /// Stable code of the reason.
        pub const REASON_CODE: u16 = 5;
        /// The reason in a sentence.
        pub const REASON: u16 = 6;
        /// What the newest job has brought.
        pub const RESULT: u16 = 7;
        /// The checks that the device declares.
        pub const PROBES: u16 = 8;
    }

    /// Resources of object 26241.
    pub mod release {
        /// Target path of the wanted release; empty if nothing is wanted.
        pub const DESIRED_RELEASE: u16 = 0;
        /// Digest of the wanted release document.
        pub const DESIRED_DIGEST: u16 = 1;
        /// The rollout that asks.
        pub const DESIRED_ROLLOUT: u16 = 2;
        /// What the updater is doing.
        pub const PHASE: u16 = 3;
        /// Stable code of the reason.
        pub const REASON_CODE: u16 = 4;
        /// The reason in a sentence.
        pub const REASON: u16 = 5;
        /// Per cent, while downloading.
        pub const PROGRESS: u16 = 6;
        /// The rollout that the phase belongs to.
        pub const REPORTED_ROLLOUT: u16 = 7;
        /// Digest of the release document that the phase belongs to.
        pub const REPORTED_DIGEST: u16 = 8;
        /// Version of the running release.
        pub const RUNNING_VERSION: u16 = 9;
        /// Digest of the running release document.
        pub const RUNNING_DIGEST: u16 = 10;
        /// `a` or `b`.
        pub const SLOT: u16 = 11;
        /// The components of the running release.
        pub const COMPONENTS: u16 = 12;
        /// Security version below which releases are refused.
        pub const SECURITY_FLOOR: u16 = 13;
        /// `https://HOST:PORT` that serves artifacts; empty until the service has written it.
        pub const ARTIFACT_SERVER: u16 = 14;
        /// The recovery key of the state, sealed to the account.
        pub const RECOVERY_KEY: u16 = 15;
        /// Who is asked before the wanted release is installed; empty if nobody is.
        pub const CONSENT: u16 = 16;
    }
}

/// Single or multiple, optional or mandatory, as the tables of the standard write it.
const fn resource(id: u16, name: &'static str, operations: Operations, kind: Type) -> Resource {
    Resource { id, name, operations, multiple: false, mandatory: false, kind }
}

const fn mandatory(mut resource: Resource) -> Resource {
    resource.mandatory = true;
    resource
}

const fn multiple(mut resource: Resource) -> Resource {
    resource.multiple = true;
    resource
}

/// Every object that this crate knows, in the order of the ids.
pub const OBJECTS: &[&Object] =
    &[&SECURITY, &SERVER, &DEVICE, &CONNECTIVITY, &FIRMWARE, &SOFTWARE, &RELEASE, &CONFIGURATION, &METRICS, &JOB];

const SECURITY: Object = Object {
    id: ids::SECURITY,
    name: "LwM2M Security",
    version: (1, 1),
    multiple: true,
    mandatory: true,
    resources: &[
        mandatory(resource(0, "LwM2M Server URI", Operations::None, Type::String)),
        mandatory(resource(1, "Bootstrap-Server", Operations::None, Type::Boolean)),
        mandatory(resource(2, "Security Mode", Operations::None, Type::Integer)),
        mandatory(resource(3, "Public Key or Identity", Operations::None, Type::Opaque)),
        mandatory(resource(4, "Server Public Key", Operations::None, Type::Opaque)),
        mandatory(resource(5, "Secret Key", Operations::None, Type::Opaque)),
        resource(10, "Short Server ID", Operations::None, Type::Integer),
        resource(11, "Client Hold Off Time", Operations::None, Type::Integer),
    ],
};

const SERVER: Object = Object {
    id: ids::SERVER,
    name: "LwM2M Server",
    version: (1, 1),
    multiple: true,
    mandatory: true,
    resources: &[
        mandatory(resource(0, "Short Server ID", R, Type::Integer)),
        mandatory(resource(1, "Lifetime", RW, Type::Integer)),
        resource(2, "Default Minimum Period", RW, Type::Integer),
        resource(3, "Default Maximum Period", RW, Type::Integer),
        resource(4, "Disable", E, Type::None),
        resource(5, "Disable Timeout", RW, Type::Integer),
        mandatory(resource(6, "Notification Storing When Disabled or Offline", RW, Type::Boolean)),
        mandatory(resource(7, "Binding", RW, Type::String)),
        mandatory(resource(8, "Registration Update Trigger", E, Type::None)),
        resource(9, "Bootstrap-Request Trigger", E, Type::None),
    ],
};

const DEVICE: Object = Object {
    id: ids::DEVICE,
    name: "Device",
    version: (1, 1),
    multiple: false,
    mandatory: true,
    resources: &[
        resource(0, "Manufacturer", R, Type::String),
        resource(1, "Model Number", R, Type::String),
        resource(2, "Serial Number", R, Type::String),
        resource(3, "Firmware Version", R, Type::String),
        mandatory(resource(4, "Reboot", E, Type::None)),
        resource(5, "Factory Reset", E, Type::None),
        multiple(resource(6, "Available Power Sources", R, Type::Integer)),
        multiple(resource(7, "Power Source Voltage", R, Type::Integer)),
        multiple(resource(8, "Power Source Current", R, Type::Integer)),
        resource(9, "Battery Level", R, Type::Integer),
        resource(10, "Memory Free", R, Type::Integer),
        mandatory(multiple(resource(11, "Error Code", R, Type::Integer))),
        resource(12, "Reset Error Code", E, Type::None),
        resource(13, "Current Time", RW, Type::Time),
        resource(14, "UTC Offset", RW, Type::String),
        resource(15, "Timezone", RW, Type::String),
        mandatory(resource(16, "Supported Binding and Modes", R, Type::String)),
        resource(17, "Device Type", R, Type::String),
        resource(18, "Hardware Version", R, Type::String),
        resource(19, "Software Version", R, Type::String),
        resource(20, "Battery Status", R, Type::Integer),
        resource(21, "Memory Total", R, Type::Integer),
        multiple(resource(22, "ExtDevInfo", R, Type::ObjectLink)),
    ],
};

const CONNECTIVITY: Object = Object {
    id: ids::CONNECTIVITY,
    name: "Connectivity Monitoring",
    version: (1, 0),
    multiple: false,
    mandatory: false,
    resources: &[
        mandatory(resource(0, "Network Bearer", R, Type::Integer)),
        mandatory(multiple(resource(1, "Available Network Bearer", R, Type::Integer))),
        mandatory(resource(2, "Radio Signal Strength", R, Type::Integer)),
        resource(3, "Link Quality", R, Type::Integer),
        mandatory(multiple(resource(4, "IP Addresses", R, Type::String))),
        multiple(resource(5, "Router IP Addresses", R, Type::String)),
        resource(6, "Link Utilization", R, Type::Integer),
        multiple(resource(7, "APN", R, Type::String)),
        resource(8, "Cell ID", R, Type::Integer),
        resource(9, "SMNC", R, Type::Integer),
        resource(10, "SMCC", R, Type::Integer),
    ],
};

const FIRMWARE: Object = Object {
    id: ids::FIRMWARE,
    name: "Firmware Update",
    version: (1, 0),
    multiple: false,
    mandatory: false,
    resources: &[
        mandatory(resource(0, "Package", W, Type::Opaque)),
        mandatory(resource(1, "Package URI", RW, Type::String)),
        mandatory(resource(2, "Update", E, Type::None)),
        mandatory(resource(3, "State", R, Type::Integer)),
        mandatory(resource(5, "Update Result", R, Type::Integer)),
        resource(6, "PkgName", R, Type::String),
        resource(7, "PkgVersion", R, Type::String),
        multiple(resource(8, "Firmware Update Protocol Support", R, Type::Integer)),
        mandatory(resource(9, "Firmware Update Delivery Method", R, Type::Integer)),
    ],
};

const SOFTWARE: Object = Object {
    id: ids::SOFTWARE,
    name: "LWM2M Software Management",
    version: (1, 0),
    multiple: true,
    mandatory: false,
    resources: &[
        mandatory(resource(0, "PkgName", R, Type::String)),
        mandatory(resource(1, "PkgVersion", R, Type::String)),
        resource(2, "Package", W, Type::Opaque),
        resource(3, "Package URI", W, Type::String),
        mandatory(resource(4, "Install", E, Type::None)),
        resource(5, "Checkpoint", R, Type::ObjectLink),
        mandatory(resource(6, "Uninstall", E, Type::None)),
        mandatory(resource(7, "Update State", R, Type::Integer)),
        resource(8, "Update Supported Objects", RW, Type::Boolean),
        mandatory(resource(9, "Update Result", R, Type::Integer)),
        mandatory(resource(10, "Activate", E, Type::None)),
        mandatory(resource(11, "Deactivate", E, Type::None)),
        mandatory(resource(12, "Activation State", R, Type::Boolean)),
        resource(13, "Package Settings", RW, Type::ObjectLink),
        resource(14, "User Name", W, Type::String),
        resource(15, "Password", W, Type::String),
    ],
};

const RELEASE: Object = Object {
    id: ids::RELEASE,
    name: "MBL Release",
    version: (1, 0),
    multiple: false,
    mandatory: false,
    resources: &[
        mandatory(resource(ids::release::DESIRED_RELEASE, "Desired release", RW, Type::String)),
        mandatory(resource(ids::release::DESIRED_DIGEST, "Desired digest", RW, Type::String)),
        mandatory(resource(ids::release::DESIRED_ROLLOUT, "Desired rollout", RW, Type::String)),
        mandatory(resource(ids::release::PHASE, "Phase", R, Type::String)),
        mandatory(resource(ids::release::REASON_CODE, "Reason code", R, Type::String)),
        mandatory(resource(ids::release::REASON, "Reason", R, Type::String)),
        resource(ids::release::PROGRESS, "Progress", R, Type::Integer),
        mandatory(resource(ids::release::REPORTED_ROLLOUT, "Reported rollout", R, Type::String)),
        mandatory(resource(ids::release::REPORTED_DIGEST, "Reported digest", R, Type::String)),
        mandatory(resource(ids::release::RUNNING_VERSION, "Running version", R, Type::String)),
        mandatory(resource(ids::release::RUNNING_DIGEST, "Running digest", R, Type::String)),
        mandatory(resource(ids::release::SLOT, "Slot", R, Type::String)),
        mandatory(multiple(resource(ids::release::COMPONENTS, "Components", R, Type::String))),
        mandatory(resource(ids::release::SECURITY_FLOOR, "Security floor", R, Type::Integer)),
        mandatory(resource(ids::release::ARTIFACT_SERVER, "Artifact server", RW, Type::String)),
        resource(ids::release::RECOVERY_KEY, "Recovery key", R, Type::String),
        resource(ids::release::CONSENT, "Consent", RW, Type::String),
    ],
};

const CONFIGURATION: Object = Object {
    id: ids::CONFIGURATION,
    name: "MBL Configuration",
    version: (1, 0),
    multiple: false,
    mandatory: false,
    resources: &[
        mandatory(resource(ids::configuration::DOCUMENT, "Document", RW, Type::String)),
        mandatory(resource(ids::configuration::GENERATION, "Generation", RW, Type::Integer)),
        mandatory(resource(ids::configuration::STATE, "State", R, Type::String)),
        mandatory(resource(ids::configuration::REPORTED_GENERATION, "Reported generation", R, Type::Integer)),
        mandatory(resource(ids::configuration::DIGEST, "Digest", R, Type::String)),
        mandatory(resource(ids::configuration::REASON_CODE, "Reason code", R, Type::String)),
        mandatory(resource(ids::configuration::REASON, "Reason", R, Type::String)),
        resource(ids::configuration::SEALING_KEY, "Sealing key", R, Type::String),
    ],
};

const METRICS: Object = Object {
    id: ids::METRICS,
    name: "MBL Metrics",
    version: (1, 0),
    multiple: false,
    mandatory: false,
    resources: &[
        mandatory(resource(ids::metrics::SAMPLES, "Samples", R, Type::Opaque)),
        mandatory(resource(ids::metrics::ACKNOWLEDGED, "Acknowledged", W, Type::Integer)),
        mandatory(resource(ids::metrics::BUDGET, "Budget", RW, Type::Integer)),
        mandatory(resource(ids::metrics::DROPPED, "Dropped", R, Type::Integer)),
        resource(10, "CPU load", R, Type::Float),
        resource(11, "Memory used", R, Type::Float),
        resource(12, "Storage used", R, Type::Float),
        resource(13, "Temperature", R, Type::Float),
        resource(14, "Network received", R, Type::Float),
        resource(15, "Network sent", R, Type::Float),
        resource(16, "Boots", R, Type::Float),
        resource(17, "Unclean boots", R, Type::Float),
        resource(18, "Agent crashes", R, Type::Float),
        resource(19, "Application exits", R, Type::Float),
    ],
};

const JOB: Object = Object {
    id: ids::JOB,
    name: "MBL Job",
    version: (1, 0),
    multiple: false,
    mandatory: false,
    resources: &[
        mandatory(resource(ids::job::ID, "Id", RW, Type::String)),
        mandatory(resource(ids::job::KIND, "Kind", RW, Type::String)),
        mandatory(resource(ids::job::ARGUMENTS, "Arguments", RW, Type::String)),
        mandatory(resource(ids::job::STATE, "State", R, Type::String)),
        mandatory(resource(ids::job::REPORTED_ID, "Reported id", R, Type::String)),
        mandatory(resource(ids::job::REASON_CODE, "Reason code", R, Type::String)),
        mandatory(resource(ids::job::REASON, "Reason", R, Type::String)),
        mandatory(resource(ids::job::RESULT, "Result", R, Type::String)),
        multiple(resource(ids::job::PROBES, "Probes", R, Type::String)),
    ],
};
