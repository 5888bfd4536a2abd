//! The system calls that an application may make: what ordinary programs need, and nothing that administers the machine.
//!
//! The list follows what container engines allow a container without capabilities. Absent on purpose, among others: `add_key`,
//! `keyctl` and `request_key` (the kernel key ring knows no containers), `bpf`, `perf_event_open` and `userfaultfd` (large attack
//! surface), `mount` and its successors, `setns`, `unshare`, `pivot_root`, `chroot`, `ptrace` and `process_vm_*`, `kexec_*`,
//! `*_module`, `reboot`, `swapon`, `settimeofday` and `clock_settime`, `io_uring_*`, `open_by_handle_at`, `quotactl`, `acct`,
//! `iopl`, `ioperm`, `mbind` and its family, `vmsplice`, `lookup_dcookie`, `nfsservctl`, `syslog`, `vhangup`, `personality`.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompBuilder,
    LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};

use super::BundleError;

/// Files and folders.
const FILES: &str = "access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 \
    fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 \
    fdatasync fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate \
    ftruncate64 futimesat getcwd getdents getdents64 getxattr inotify_add_watch inotify_init inotify_init1 inotify_rm_watch ioctl \
    lchown lchown32 lgetxattr link linkat listxattr llistxattr lremovexattr lseek _llseek lsetxattr lstat lstat64 memfd_create \
    mkdir mkdirat mknod mknodat newfstatat open openat openat2 pipe pipe2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read \
    readahead readlink readlinkat readv removexattr rename renameat renameat2 rmdir sendfile sendfile64 setxattr splice stat \
    stat64 statfs statfs64 statx symlink symlinkat sync sync_file_range sync_file_range2 syncfs tee truncate truncate64 umask \
    unlink unlinkat utime utimensat utimensat_time64 utimes write writev";
/// Memory.
const MEMORY: &str = "brk cachestat madvise map_shadow_stack membarrier memfd_secret mincore mlock mlock2 mlockall mmap mmap2 \
    mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect process_mrelease remap_file_pages";
/// Processes, threads and users inside the container.
const PROCESSES: &str = "alarm arch_prctl capget capset execve execveat exit exit_group fork futex futex_requeue \
    futex_time64 futex_wait futex_waitv futex_wake get_robust_list get_thread_area getcpu getegid getegid32 geteuid geteuid32 \
    getgid getgid32 getgroups getgroups32 getpgid getpgrp getpid getppid getpriority getresgid getresgid32 getresuid getresuid32 \
    getrlimit getrusage getsid gettid getuid getuid32 ioprio_get ioprio_set kill landlock_add_rule \
    landlock_create_ruleset landlock_restrict_self pause pidfd_open pidfd_send_signal prctl prlimit64 restart_syscall rseq \
    sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler \
    sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler \
    sched_yield seccomp set_robust_list set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 \
    setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid \
    setreuid32 setrlimit setsid setuid setuid32 sysinfo tgkill times tkill ugetrlimit uname vfork wait4 waitid waitpid";
/// Signals, clocks and timers.
const SIGNALS_AND_TIME: &str = "clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep \
    clock_nanosleep_time64 getitimer gettimeofday nanosleep rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo \
    rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack signalfd signalfd4 sigpending \
    sigprocmask sigreturn time timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime \
    timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64";
/// Sockets, waiting, and talk between processes.
const COMMUNICATION: &str = "accept accept4 bind connect epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 \
    epoll_wait epoll_wait_old eventfd eventfd2 getpeername getsockname getsockopt getrandom io_cancel io_destroy io_getevents \
    io_pgetevents io_pgetevents_time64 io_setup io_submit ipc listen mq_getsetattr mq_notify mq_open mq_timedreceive \
    mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd _newselect poll ppoll \
    ppoll_time64 pselect6 pselect6_time64 recv recvfrom recvmmsg recvmmsg_time64 recvmsg select semctl semget semop semtimedop \
    semtimedop_time64 send sendmmsg sendmsg sendto setsockopt shmat shmctl shmdt shmget shutdown socketcall";

/// Flags of `clone(2)` that make a new namespace: mount, cgroup, uts, ipc, user, pid, network.
const NEW_NAMESPACE: u64 = 0x7E02_0000;
/// `ENOSYS`: C libraries then use `clone`, whose flags a filter can see.
const NOT_IMPLEMENTED: u32 = 38;
/// `EPERM`.
const NOT_PERMITTED: u32 = 1;
/// Families of sockets: `AF_UNIX`, `AF_INET`, `AF_INET6`, `AF_NETLINK`, `AF_CAN` and `AF_BLUETOOTH`. Not among them, beside many that
/// nobody needs: `AF_VSOCK`, which reaches out of a virtual machine whatever the network namespace, and `AF_ALG`, the kernel's
/// cryptography. The filter compares 64 bits where the kernel takes 32, so only a list of what is allowed leaves no way around.
const FAMILIES: [u64; 6] = [UNIX, 2, 10, 16, 29, 31];
/// The one family of them that has pairs.
const UNIX: u64 = 1;

/// The profile for programs of the processor that this program runs on; calls of any other kind (32 bit, x32) end the process.
pub(super) fn profile() -> Result<LinuxSeccomp, BundleError> {
    let plain = [FILES, MEMORY, PROCESSES, SIGNALS_AND_TIME, COMMUNICATION];
    let names: Vec<&str> = plain.iter().flat_map(|group| group.split_whitespace()).collect();
    let architecture = match std::env::consts::ARCH {
        "aarch64" => Arch::ScmpArchAarch64,
        "arm" => Arch::ScmpArchArm,
        _ => Arch::ScmpArchX86_64,
    };
    let no_new_namespace = argument(0, NEW_NAMESPACE, Some(0), LinuxSeccompOperator::ScmpCmpMaskedEq)?;
    let mut rules = vec![
        rule(&names, LinuxSeccompAction::ScmpActAllow, Vec::new(), None)?,
        rule(&["clone"], LinuxSeccompAction::ScmpActAllow, vec![no_new_namespace], None)?,
        rule(&["clone3"], LinuxSeccompAction::ScmpActErrno, Vec::new(), Some(NOT_IMPLEMENTED))?,
    ];
    for family in FAMILIES {
        // Rules for one call are alternatives.
        let family = argument(0, family, None, LinuxSeccompOperator::ScmpCmpEq)?;
        rules.push(rule(&["socket"], LinuxSeccompAction::ScmpActAllow, vec![family], None)?);
    }
    let unix = argument(0, UNIX, None, LinuxSeccompOperator::ScmpCmpEq)?;
    rules.push(rule(&["socketpair"], LinuxSeccompAction::ScmpActAllow, vec![unix], None)?);
    Ok(LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .default_errno_ret(NOT_PERMITTED)
        .architectures(vec![architecture])
        .syscalls(rules)
        .build()?)
}

fn argument(
    index: usize,
    value: u64,
    value_two: Option<u64>,
    op: LinuxSeccompOperator,
) -> Result<LinuxSeccompArg, BundleError> {
    let builder = LinuxSeccompArgBuilder::default().index(index).value(value).op(op);
    Ok(match value_two {
        Some(two) => builder.value_two(two).build()?,
        None => builder.build()?,
    })
}

fn rule(
    names: &[&str],
    action: LinuxSeccompAction,
    args: Vec<LinuxSeccompArg>,
    errno: Option<u32>,
) -> Result<LinuxSyscall, BundleError> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut builder = LinuxSyscallBuilder::default().names(names).action(action);
    if !args.is_empty() {
        builder = builder.args(args);
    }
    if let Some(errno) = errno {
        builder = builder.errno_ret(errno);
    }
    Ok(builder.build()?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn allowed() -> BTreeSet<String> {
        let profile = profile().unwrap();
        let plain = profile.syscalls().as_ref().unwrap().iter().filter(|rule| rule.args().is_none());
        plain.filter(|rule| rule.action() == LinuxSeccompAction::ScmpActAllow).flat_map(|r| r.names().clone()).collect()
    }

    #[test]
    fn nothing_that_administers_the_machine_is_allowed() {
        let forbidden = "add_key keyctl request_key bpf perf_event_open userfaultfd mount umount2 move_mount open_tree fsopen \
            mount_setattr setns unshare pivot_root chroot ptrace process_vm_readv process_vm_writev kexec_load kexec_file_load \
            init_module finit_module delete_module reboot swapon swapoff settimeofday clock_settime clock_adjtime adjtimex \
            io_uring_setup open_by_handle_at quotactl acct iopl ioperm syslog personality clone clone3 socket socketpair sethostname";
        let allowed = allowed();
        let bad: Vec<_> = forbidden.split_whitespace().filter(|name| allowed.contains(*name)).collect();
        assert!(bad.is_empty(), "allowed without condition: {bad:?}");
    }

    #[test]
    fn sockets_are_of_a_listed_family_whatever_stands_in_the_upper_half_of_the_argument() {
        let profile = profile().unwrap();
        let of_socket = |rule: &&LinuxSyscall| rule.names().contains(&"socket".to_owned());
        let rules: Vec<_> = profile.syscalls().as_ref().unwrap().iter().filter(of_socket).collect();
        assert_eq!(rules.len(), FAMILIES.len());
        for rule in rules {
            let [family] = rule.args().as_ref().unwrap().as_slice() else { unreachable!("one condition") };
            assert_eq!((family.index(), family.op()), (0, LinuxSeccompOperator::ScmpCmpEq));
            assert!(u32::try_from(family.value()).is_ok() && ![38, 40].contains(&family.value()), "{family:?}");
        }
    }

    #[test]
    fn pairs_of_sockets_are_local_ones() {
        let profile = profile().unwrap();
        let of_pairs = |rule: &&LinuxSyscall| rule.names().contains(&"socketpair".to_owned());
        let rules: Vec<_> = profile.syscalls().as_ref().unwrap().iter().filter(of_pairs).collect();
        let conditions: Vec<_> = rules.iter().map(|rule| rule.args().as_ref().unwrap()[0].value()).collect();
        assert_eq!(conditions, [UNIX]);
    }

    #[test]
    fn no_call_is_listed_twice() {
        let plain = [FILES, MEMORY, PROCESSES, SIGNALS_AND_TIME, COMMUNICATION];
        let count = plain.iter().flat_map(|group| group.split_whitespace()).count();
        assert_eq!(count, allowed().len());
    }
}
