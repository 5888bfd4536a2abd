//! The OCI runtime configuration of an application (OCI runtime specification 1.0): every grant is spelled out here and nowhere
//! else. Never touches a disk.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Capabilities, LinuxBuilder, LinuxCapabilitiesBuilder, LinuxDeviceCgroupBuilder, LinuxIdMapping,
    LinuxIdMappingBuilder, LinuxMemoryBuilder, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType,
    LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder, Mount, MountBuilder, PosixRlimit, PosixRlimitBuilder,
    PosixRlimitType, Process, ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};
use protocol_types::{Network, RunSettings};

use super::{BundleError, seccomp};
use crate::{
    image::{ImageProcess, UserIds},
    limits::Limits,
};

/// Where and as whom a container runs; the rest follows from the release and the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confinement {
    /// Root folder as the runtime sees it.
    pub rootfs: PathBuf,
    /// Host name inside.
    pub hostname: String,
    /// User id outside that is id 0 inside.
    pub first_uid: u32,
    /// Path of the control group.
    pub cgroup: String,
    /// Whether the kernel can count swap against the memory limit.
    pub counts_swap: bool,
    /// The folder with what the application is given, if it is given anything and its image has a folder `/run`.
    pub settings: Option<PathBuf>,
    /// The folder with its secrets, if it also has any.
    pub secrets: Option<PathBuf>,
    /// The device's `resolv.conf`, for applications on the device's network whose image has a place for it.
    pub resolv_conf: Option<PathBuf>,
}

/// Size of `/tmp` and `/dev/shm`, which count against the memory limit too.
const SCRATCH_BYTES: u64 = 16 << 20;
/// Where memory runs out, an application goes before what the device itself needs.
const OUT_OF_MEMORY: i32 = 500;
/// Open files of one process.
const OPEN_FILES: u64 = 4096;
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the runtime is told about an application.
pub fn configuration(
    confinement: &Confinement,
    process: &ImageProcess,
    user: &UserIds,
    run: &RunSettings,
) -> Result<Spec, BundleError> {
    let linux = LinuxBuilder::default()
        .uid_mappings(vec![mapping(confinement.first_uid)?])
        .gid_mappings(vec![mapping(confinement.first_uid)?])
        .resources(resources(confinement, run)?)
        .cgroups_path(&confinement.cgroup)
        .namespaces(namespaces(run.network)?)
        .seccomp(seccomp::profile()?)
        .masked_paths(texts(&[
            "/proc/acpi",
            "/proc/asound",
            "/proc/bus",
            "/proc/kcore",
            "/proc/keys",
            "/proc/kmsg",
            "/proc/latency_stats",
            "/proc/sched_debug",
            "/proc/scsi",
            "/proc/timer_list",
            "/proc/timer_stats",
        ]))
        .readonly_paths(texts(&["/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]))
        .build()?;
    Ok(SpecBuilder::default()
        .version("1.0.2")
        .root(RootBuilder::default().path(&confinement.rootfs).readonly(true).build()?)
        .hostname(&confinement.hostname)
        .process(confined(process, user, process.args.clone())?)
        .mounts(mounts(confinement, run)?)
        .linux(linux)
        .build()?)
}

/// The ready check's process: confined as the application's own.
pub fn ready_process(process: &ImageProcess, user: &UserIds, command: &[String]) -> Result<Process, BundleError> {
    confined(process, user, command.to_vec())
}

fn confined(process: &ImageProcess, user: &UserIds, args: Vec<String>) -> Result<Process, BundleError> {
    let mut env = process.env.clone();
    if !env.iter().any(|pair| pair.starts_with("PATH=")) {
        env.push(DEFAULT_PATH.into());
    }
    let none = Capabilities::new;
    Ok(ProcessBuilder::default()
        .terminal(false)
        .user(UserBuilder::default().uid(user.uid).gid(user.gid).additional_gids(user.groups.clone()).build()?)
        .args(args)
        .env(env)
        .cwd(&process.working_dir)
        .capabilities(
            LinuxCapabilitiesBuilder::default()
                .bounding(none())
                .effective(none())
                .inheritable(none())
                .permitted(none())
                .ambient(none())
                .build()?,
        )
        .rlimits(vec![
            rlimit(PosixRlimitType::RlimitNofile, OPEN_FILES)?,
            // A core file would be written to nowhere but costs memory and time.
            rlimit(PosixRlimitType::RlimitCore, 0)?,
        ])
        .no_new_privileges(true)
        .oom_score_adj(OUT_OF_MEMORY)
        .build()?)
}

fn rlimit(kind: PosixRlimitType, value: u64) -> Result<PosixRlimit, BundleError> {
    Ok(PosixRlimitBuilder::default().typ(kind).hard(value).soft(value).build()?)
}

fn mapping(first_uid: u32) -> Result<LinuxIdMapping, BundleError> {
    Ok(LinuxIdMappingBuilder::default().host_id(first_uid).container_id(0u32).size(Limits::OWNERS).build()?)
}

/// An application on the device's network gets no network namespace: it stays in the one from which the runtime is started
/// (see [`Runtime`](super::Runtime)). Joining one by path would need rights over it that a user namespace does not have when a
/// ready check joins later.
fn namespaces(network: Network) -> Result<Vec<LinuxNamespace>, BundleError> {
    use LinuxNamespaceType::{Cgroup, Ipc, Mount, Pid, User, Uts};
    let mut kinds = vec![User, Pid, Mount, Ipc, Uts, Cgroup];
    match network {
        Network::None => kinds.push(LinuxNamespaceType::Network),
        Network::Host => {}
    }
    kinds.into_iter().map(|kind| Ok(LinuxNamespaceBuilder::default().typ(kind).build()?)).collect()
}

fn resources(confinement: &Confinement, run: &RunSettings) -> Result<LinuxResources, BundleError> {
    let bytes = i64::try_from(run.memory_bytes).unwrap_or(i64::MAX);
    let mut memory = LinuxMemoryBuilder::default().limit(bytes);
    if confinement.counts_swap {
        // Memory and swap together: no swap beyond the limit.
        memory = memory.swap(bytes);
    }
    // All devices are forbidden; the runtime itself allows the harmless ones that it makes, such as /dev/null.
    let no_devices = LinuxDeviceCgroupBuilder::default().allow(false).access("rwm").build()?;
    Ok(LinuxResourcesBuilder::default()
        .devices(vec![no_devices])
        .memory(memory.build()?)
        .pids(LinuxPidsBuilder::default().limit(i64::from(run.pids)).build()?)
        .build()?)
}

fn mounts(confinement: &Confinement, run: &RunSettings) -> Result<Vec<Mount>, BundleError> {
    let scratch = format!("size={}", SCRATCH_BYTES.min(run.memory_bytes / 2));
    let shared = ["nosuid", "noexec", "nodev", "mode=1777", &scratch];
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"])?,
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536"])?,
        mount("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"])?,
        mount("/dev/shm", "tmpfs", "shm", &shared)?,
        mount("/tmp", "tmpfs", "tmpfs", &["nosuid", "nodev", "mode=1777", &scratch])?,
    ];
    if let (Network::Host, Some(file)) = (run.network, &confinement.resolv_conf) {
        let read_only = ["bind", "ro", "nosuid", "nodev", "noexec"];
        let mut bind = mount("/etc/resolv.conf", "bind", "", &read_only)?;
        bind.set_source(Some(file.clone()));
        mounts.push(bind);
    }
    if let Some(folder) = &confinement.settings {
        // The root is read-only, so the place for the settings is made in a file system of its own.
        mounts.push(mount("/run", "tmpfs", "tmpfs", &["nosuid", "noexec", "nodev", "mode=755", "size=65536"])?);
        let secrets = confinement.secrets.iter().map(|secrets| ("/run/mbl/secrets", secrets));
        for (at, folder) in [("/run/mbl", folder)].into_iter().chain(secrets) {
            let mut bind = mount(at, "bind", "", &["bind", "ro", "nosuid", "nodev", "noexec"])?;
            bind.set_source(Some(folder.clone()));
            mounts.push(bind);
        }
    }
    Ok(mounts)
}

fn mount(at: &str, kind: &str, source: &str, options: &[&str]) -> Result<Mount, BundleError> {
    let builder = MountBuilder::default().destination(Path::new(at)).typ(kind).source(Path::new(source));
    Ok(builder.options(texts(options)).build()?)
}

fn texts(of: &[&str]) -> Vec<String> {
    of.iter().map(|text| (*text).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(network: Network) -> Spec {
        let confinement = Confinement {
            rootfs: "/r".into(),
            hostname: "hello".into(),
            first_uid: 1_000_000,
            cgroup: "/mbl-x-hello".into(),
            counts_swap: true,
            settings: None,
            secrets: None,
            resolv_conf: Some("/etc/resolv.conf".into()),
        };
        let process = ImageProcess { args: vec!["/a".into()], env: vec![], working_dir: "/".into(), user: "".into() };
        let run = RunSettings { network, memory_bytes: 8 << 20, pids: 4, ready: None };
        configuration(&confinement, &process, &UserIds::default(), &run).unwrap()
    }

    #[test]
    fn an_application_gets_no_privilege_that_is_not_spelled_out() {
        let spec = sample(Network::None);
        let process = spec.process().as_ref().unwrap();
        assert_eq!(process.no_new_privileges(), Some(true));
        assert_eq!(process.oom_score_adj(), Some(500));
        let capabilities = process.capabilities().as_ref().unwrap();
        for set in [capabilities.bounding(), capabilities.effective(), capabilities.permitted(), capabilities.ambient()]
        {
            assert!(set.as_ref().unwrap().is_empty());
        }
        assert_eq!(spec.root().as_ref().unwrap().readonly(), Some(true));
        let linux = spec.linux().as_ref().unwrap();
        let kinds: Vec<_> = linux.namespaces().as_ref().unwrap().iter().map(|n| n.typ()).collect();
        use LinuxNamespaceType::{Cgroup, Ipc, Mount, Network as Net, Pid, User, Uts};
        assert_eq!(kinds, [User, Pid, Mount, Ipc, Uts, Cgroup, Net]);
        assert!(linux.devices().is_none() && linux.sysctl().as_ref().is_none_or(|s| s.is_empty()));
        assert!(spec.hooks().is_none(), "a hook would run outside of the container");
    }

    #[test]
    fn only_an_application_on_the_device_network_sees_its_name_servers() {
        let binds = |network| {
            let spec = sample(network);
            let mounts = spec.mounts().as_ref().unwrap();
            mounts.iter().filter(|m| m.typ().as_deref() == Some("bind")).count()
        };
        assert_eq!((binds(Network::None), binds(Network::Host)), (0, 1));
    }
}
