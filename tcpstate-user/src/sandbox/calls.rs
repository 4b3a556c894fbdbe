//! The system calls of a service: a list of those that it makes, and all others fail with EPERM.
//!
//! A call that only does harm with certain arguments is on the list with the others: files are opened to be read,
//! memory is never executable, processes are not made, a socket is one of netlink, BPF programs and maps are neither loaded nor
//! made, and a namespace that is entered is one of the network.
//!
//! The list was found with `strace -f` and by reading what the two C libraries use instead of each other's calls.

use std::{collections::BTreeMap, env::consts::ARCH};

use libc::{
    AF_INET, AF_INET6, AF_NETLINK, CLONE_NEWNET, CLONE_THREAD, O_ACCMODE, O_CREAT, O_TRUNC,
    PR_SET_NAME, PROT_EXEC, SOCK_DGRAM, SOCK_STREAM, c_int, c_long,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use super::Sockets;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Forbids the others in this thread, and in all that it starts. Returns whether the kernel does: one without seccomp does not.
///
/// Where sockets besides those of netlink are allowed, so is to forbid them later.
pub(super) fn forbid(sockets: Sockets) -> Result<bool, Failure> {
    for filter in [no_clone3()?, list(sockets)?] {
        match seccompiler::apply_filter(&filter) {
            Ok(()) => {}
            Err(seccompiler::Error::Seccomp(error)) if is_missing(&error) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

/// Whether the kernel was built without it.
fn is_missing(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL))
}

/// The flags of this call are in memory, where a filter cannot look. Where the kernel seems not to have it, the C library
/// makes threads with `clone`.
fn no_clone3() -> Result<BpfProgram, Failure> {
    let missing = SeccompAction::Errno(u32::try_from(libc::ENOSYS)?);
    compile(
        [(libc::SYS_clone3, Vec::new())].into(),
        SeccompAction::Allow,
        missing,
    )
}

fn list(sockets: Sockets) -> Result<BpfProgram, Failure> {
    let mut rules: BTreeMap<c_long, Vec<SeccompRule>> =
        ALWAYS.iter().map(|&call| (call, Vec::new())).collect();
    rules.extend(LEGACY.iter().map(|&call| (call, Vec::new())));
    for &(call, argument, mask, values) in WITH {
        let values = values.iter();
        let these: Result<Vec<SeccompRule>, Failure> = values
            .map(|&value| rule(&[(argument, mask, value)]))
            .collect();
        rules.insert(call, these?);
    }
    let kinds: &[c_int] = match sockets {
        Sockets::OfNetlink => &[],
        Sockets::Tcp => &[SOCK_STREAM],
        Sockets::TcpByName => {
            // The GNU C library asks for both kinds of addresses with it.
            rules.insert(libc::SYS_sendmmsg, Vec::new());
            &[SOCK_STREAM, SOCK_DGRAM]
        }
    };
    if let Some(of_netlink) = rules.get_mut(&libc::SYS_socket)
        && !kinds.is_empty()
    {
        for (&family, &kind) in [AF_INET, AF_INET6]
            .iter()
            .flat_map(|family| kinds.iter().map(move |kind| (family, kind)))
        {
            of_netlink.push(rule(&[
                (0, EXACTLY, flags(family)),
                (1, SOCKET_KINDS, flags(kind)),
            ])?);
        }
        // Another list on top of this one, and nothing that a filter could hand on to somebody.
        let more = [(0, EXACTLY, SET_MODE_FILTER), (1, EXACTLY, 0)];
        rules.insert(libc::SYS_seccomp, vec![rule(&more)?]);
    }
    let refused = SeccompAction::Errno(u32::try_from(libc::EPERM)?);
    compile(rules, refused, SeccompAction::Allow)
}

/// Arguments that a call has at the same time: the number of each, a mask, and the value behind it.
fn rule(arguments: &[(u8, u32, u32)]) -> Result<SeccompRule, Failure> {
    let conditions = arguments.iter().map(|&(argument, mask, value)| {
        let is = SeccompCmpOp::MaskedEq(mask.into());
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, is, value.into())
    });
    let conditions: Vec<SeccompCondition> = conditions.collect::<Result<_, _>>()?;
    Ok(SeccompRule::new(conditions)?)
}

fn compile(
    rules: BTreeMap<c_long, Vec<SeccompRule>>,
    others: SeccompAction,
    these: SeccompAction,
) -> Result<BpfProgram, Failure> {
    let filter = SeccompFilter::new(rules, others, these, ARCH.try_into()?)?;
    Ok(filter.try_into()?)
}

/// Calls with any arguments.
const ALWAYS: &[c_long] = &[
    // Memory.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // Threads, and their end. `clone3` is refused by the other filter.
    libc::SYS_clone3,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getcpu,
    libc::SYS_membarrier,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    // Signals. A second SIGINT ends the process by one.
    libc::SYS_kill,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    libc::SYS_tkill,
    // Times.
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    // Descriptors that are open.
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_getdents64,
    libc::SYS_ioctl,
    libc::SYS_lseek,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    // Names of files.
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_name_to_handle_at,
    libc::SYS_newfstatat,
    libc::SYS_readlinkat,
    libc::SYS_statfs,
    libc::SYS_statx,
    // Sockets that are there already, and those of netlink.
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_listen,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    // Facts about this process.
    libc::SYS_capget,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    // They only take away.
    libc::SYS_capset,
    libc::SYS_landlock_add_rule,
    libc::SYS_landlock_create_ruleset,
    libc::SYS_landlock_restrict_self,
];

/// The same, on architectures that are old enough to have them.
#[cfg(target_arch = "x86_64")]
const LEGACY: &[c_long] = &[
    libc::SYS_access,
    libc::SYS_epoll_wait,
    libc::SYS_lstat,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_stat,
];
#[cfg(not(target_arch = "x86_64"))]
const LEGACY: &[c_long] = &[];

/// A call, the number of an argument, a mask, and the values that are allowed behind it.
type With = (c_long, u8, u32, &'static [u32]);

/// All bits.
const EXACTLY: u32 = u32::MAX;

/// Flags of a file that is written to.
const WRITES: u32 = flags(O_ACCMODE | O_CREAT | O_TRUNC);

/// Commands of `bpf`. *Source:* `enum bpf_cmd` in `include/uapi/linux/bpf.h`.
const MAP_LOOKUP_ELEM: u32 = 1;
const MAP_UPDATE_ELEM: u32 = 2;
const MAP_DELETE_ELEM: u32 = 3;
const MAP_GET_NEXT_KEY: u32 = 4;
const OBJ_GET_INFO_BY_FD: u32 = 15;
const RAW_TRACEPOINT_OPEN: u32 = 17;

/// The operation of `seccomp`. *Source:* `include/uapi/linux/seccomp.h`.
const SET_MODE_FILTER: u32 = libc::SECCOMP_SET_MODE_FILTER;

/// The kind in the second argument of `socket`, without its flags. *Source:* `SOCK_TYPE_MASK` in `include/linux/net.h`.
const SOCKET_KINDS: u32 = 0xf;

/// Options of `prctl`. *Source:* `include/uapi/linux/prctl.h`.
const PR_SET_NO_NEW_PRIVS: u32 = flags(libc::PR_SET_NO_NEW_PRIVS);
const PR_CAP_AMBIENT: u32 = flags(libc::PR_CAP_AMBIENT);

/// Calls with certain arguments.
const WITH: &[With] = &[
    // The second program is attached again and again. Nothing is loaded or made.
    (
        libc::SYS_bpf,
        0,
        EXACTLY,
        &[
            MAP_LOOKUP_ELEM,
            MAP_UPDATE_ELEM,
            MAP_DELETE_ELEM,
            MAP_GET_NEXT_KEY,
            OBJ_GET_INFO_BY_FD,
            RAW_TRACEPOINT_OPEN,
        ],
    ),
    (
        libc::SYS_clone,
        0,
        flags(CLONE_THREAD),
        &[flags(CLONE_THREAD)],
    ),
    (libc::SYS_mmap, 2, flags(PROT_EXEC), &[0]),
    (libc::SYS_mprotect, 2, flags(PROT_EXEC), &[0]),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, 1, WRITES, &[0]),
    (libc::SYS_open_by_handle_at, 2, WRITES, &[0]),
    (libc::SYS_openat, 2, WRITES, &[0]),
    (
        libc::SYS_prctl,
        0,
        EXACTLY,
        &[flags(PR_SET_NAME), PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT],
    ),
    (libc::SYS_setns, 1, EXACTLY, &[flags(CLONE_NEWNET)]),
    (libc::SYS_socket, 0, EXACTLY, &[flags(AF_NETLINK)]),
];

/// The bits of flags.
const fn flags(flags: c_int) -> u32 {
    flags.cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_compile() {
        let of = [Sockets::OfNetlink, Sockets::Tcp, Sockets::TcpByName];
        for filter in [no_clone3()].into_iter().chain(of.map(list)) {
            let filter = filter.unwrap();
            // *Source:* `BPF_MAXINSNS`.
            assert!((10..4_096).contains(&filter.len()), "{}", filter.len());
        }
    }

    #[test]
    fn a_call_is_in_one_list() {
        let with = WITH.iter().map(|with| with.0);
        let mut calls: Vec<c_long> = ALWAYS.iter().chain(LEGACY).copied().chain(with).collect();
        let number = calls.len();
        calls.sort_unstable();
        calls.dedup();
        assert_eq!(calls.len(), number);
    }
}
