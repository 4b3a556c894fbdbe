//! Tests of `probe`: its verdicts.

use super::*;

const BOTH: Works = Works {
    btf: true,
    tracepoint: true,
};
const BTF: Works = Works {
    btf: true,
    tracepoint: false,
};
const TRACEPOINT: Works = Works {
    btf: false,
    tracepoint: true,
};
const NONE: Works = Works {
    btf: false,
    tracepoint: false,
};

fn host(kernel: &str) -> Host {
    Host {
        kernel: kernel.to_owned(),
        ..Host::read()
    }
}

fn refused() -> Result<Attached, CaptureError> {
    Err(CaptureError::Privileges(io::Error::from_raw_os_error(
        libc::EPERM,
    )))
}

fn text(part: Option<&String>) -> &str {
    part.map_or("", String::as_str)
}

#[test]
fn the_better_mode_is_taken() {
    let best = [BOTH, BTF, TRACEPOINT, NONE].map(Works::best);
    let expected = [
        Some(Mode::Btf),
        Some(Mode::Btf),
        Some(Mode::Tracepoint),
        None,
    ];
    assert_eq!(best, expected);
}

#[test]
fn a_kernel_without_ring_buffer_is_too_old() {
    assert_eq!(kernel(&host("5.8.0")).status, Status::Ok);
    assert_eq!(kernel(&host("6.18.44-test")).status, Status::Ok);
    assert_eq!(kernel(&host("built by hand")).status, Status::Ok);
    let old = kernel(&host("5.7.19-1-amd64"));
    assert_eq!(old.status, Status::Missing);
    assert!(text(old.costs.as_ref()).contains("Linux 5.8"));
    assert!(old.remedy.is_some());
}

#[test]
fn present_and_missing_capabilities_are_named() {
    let own = CapabilitySet::BPF | CapabilitySet::PERFMON;
    let new = Some((6, 1));
    let check = capabilities(Ok(own), new);
    assert_eq!(check.status, Status::Ok);
    assert!(
        check
            .detail
            .starts_with("CAP_BPF CAP_PERFMON; not CAP_NET_ADMIN ")
    );
    assert_eq!(
        capabilities(Ok(CapabilitySet::all()), new).status,
        Status::Ok
    );
    assert_eq!(
        capabilities(Ok(CapabilitySet::SYS_ADMIN), new).status,
        Status::Ok
    );
    assert_eq!(capabilities(Ok(own), Some((5, 7))).status, Status::Missing);

    for lacking in [
        CapabilitySet::empty(),
        CapabilitySet::BPF,
        CapabilitySet::PERFMON,
    ] {
        let check = capabilities(Ok(lacking), new);
        assert_eq!(check.status, Status::Missing);
        assert!(text(check.remedy.as_ref()).contains("sudo setcap cap_bpf,cap_perfmon=ep "));
    }
    let unreadable = capabilities(Err(io::ErrorKind::PermissionDenied.into()), new);
    assert_eq!(unreadable.status, Status::Degraded);
}

#[test]
fn namespaces_other_than_the_hosts_are_reported() {
    assert_eq!(user_namespace(Ok(true)).costs, None);
    assert!(text(user_namespace(Ok(false)).costs.as_ref()).contains("do not count for BPF"));
    assert_eq!(pid_namespace(Ok(true), true).costs, None);
    assert_eq!(pid_namespace(Ok(false), true).costs, None);
    assert!(text(pid_namespace(Ok(false), false).costs.as_ref()).contains("PIDs"));
    assert_eq!(time_namespace(Ok(true), Ok(0)).detail, "the host's");
    let ahead = time_namespace(Ok(false), Ok(1_500_000_000));
    assert_eq!(ahead.status, Status::Ok);
    assert!(ahead.detail.contains("1.5 s ahead of the host's"));
    let behind = time_namespace(Ok(false), Ok(-2_000_000_000));
    assert!(behind.detail.contains("2 s behind the host's"));
    let unknown = time_namespace(Ok(false), Err(io::ErrorKind::NotFound.into()));
    assert_eq!(unknown.status, Status::Missing);
    let none = time_namespace(Err(io::ErrorKind::NotFound.into()), Ok(0));
    assert_eq!(none.status, Status::Ok);
}

#[test]
fn only_confidentiality_restricts() {
    for level in [Lockdown::None, Lockdown::Integrity, Lockdown::Unknown] {
        assert_eq!(lockdown(level).status, Status::Ok);
    }
    let check = lockdown(Lockdown::Confidentiality);
    assert_eq!(check.status, Status::Degraded);
    assert!(text(check.remedy.as_ref()).contains("--attach btf"));
}

#[test]
fn a_ring_buffer_is_supported_or_too_large_or_unknown() {
    let syscall = |errno| SyscallError {
        call: "bpf_map_create",
        io_error: io::Error::from_raw_os_error(errno),
    };
    let ok = ring_buffer(Ok(true), 4096, &Ok(Attached::default()), &refused());
    assert_eq!(
        (ok.status, ok.detail.as_str()),
        (Status::Ok, "supported; 4096 bytes were allocated")
    );
    let ok = ring_buffer(Ok(true), 4096, &refused(), &refused());
    assert_eq!((ok.status, ok.detail.as_str()), (Status::Ok, "supported"));

    let none = ring_buffer(Ok(false), 4096, &refused(), &refused());
    assert_eq!(none.status, Status::Missing);
    assert!(none.detail.contains("5.8"));

    let no_memory = || {
        let source = io::Error::from_raw_os_error(libc::ENOMEM);
        Err(CaptureError::RingAllocation {
            bytes: 1 << 30,
            source,
        })
    };
    let large = ring_buffer(Ok(true), 1 << 30, &no_memory(), &no_memory());
    assert_eq!(large.status, Status::Missing);
    assert!(large.detail.contains("1073741824 bytes"));
    assert!(text(large.remedy.as_ref()).contains("--ring-bytes"));

    let unknown = ring_buffer(Err(syscall(libc::EPERM)), 4096, &refused(), &refused());
    assert_eq!(unknown.status, Status::Missing);
    assert!(text(unknown.remedy.as_ref()).contains("setcap"));
}

#[test]
fn missing_kernel_types_are_named() {
    let all = Resolved {
        offsets: tcpstate_common::config::Offsets::default(),
        has_cookie: true,
        has_task_btf: true,
        has_cgroup: true,
        counts_skipped: true,
        reset_codes: None,
    };
    assert_eq!(kernel_types(Ok(all), BOTH).status, Status::Ok);
    for (lacking, word) in [
        (
            Resolved {
                has_cookie: false,
                ..all
            },
            "cookies",
        ),
        (
            Resolved {
                has_task_btf: false,
                ..all
            },
            "bpf_get_current_task_btf",
        ),
        (
            Resolved {
                has_cgroup: false,
                ..all
            },
            "cgroup",
        ),
    ] {
        let check = kernel_types(Ok(lacking), BOTH);
        assert_eq!(check.status, Status::Degraded);
        assert!(text(check.costs.as_ref()).contains(word));
    }
    let misfit = layout::LayoutError::NoStruct { structure: "net" };
    let check = kernel_types(Err(misfit.into()), TRACEPOINT);
    assert_eq!(check.status, Status::Missing);
    assert!(check.detail.contains("struct net"));
    assert!(text(check.costs.as_ref()).contains("takes its place"));
}

#[test]
fn what_one_attach_mode_costs_depends_on_the_other() {
    let costs = |check: Check| check.costs.unwrap();
    let size = Attached {
        instructions: Some(411),
        ..Attached::default()
    };
    assert_eq!(
        attach_btf(&Ok(size), BOTH).detail,
        "attached and detached; 411 instructions"
    );
    assert_eq!(
        attach_tracepoint(&Ok(Attached::default()), BOTH).detail,
        "attached and detached"
    );
    let blind = Attached {
        instructions: Some(177),
        without_socket: Some("no BTF".into()),
        skips_uncounted: true,
        ..Attached::default()
    };
    let blind = attach_tracepoint(&Ok(blind), TRACEPOINT);
    assert_eq!(blind.status, Status::Degraded);
    assert!(blind.detail.ends_with("sockets cannot be read: no BTF"));
    assert!(costs(blind).contains("no user, namespace"));
    let uncounted = Attached {
        skips_uncounted: true,
        ..Attached::default()
    };
    let uncounted = attach_tracepoint(&Ok(uncounted), BOTH);
    assert_eq!(uncounted.status, Status::Degraded);
    assert!(costs(uncounted).contains("`nested` is unknown"));
    assert!(costs(attach_btf(&refused(), TRACEPOINT)).contains("takes its place"));
    assert!(costs(attach_btf(&refused(), NONE)).contains("not possible"));
    assert!(costs(attach_tracepoint(&refused(), BTF)).starts_with("nothing"));
    assert!(costs(attach_tracepoint(&refused(), NONE)).contains("not possible"));
}

#[test]
fn without_the_resets_some_causes_are_unknown() {
    let seen = Attached {
        reset_reasons: true,
        ..Attached::default()
    };
    assert!(resets(Some(&seen)).detail.ends_with("with their reasons"));
    let check = resets(Some(&Attached::default()));
    assert_eq!(check.status, Status::Degraded);
    assert!(text(check.costs.as_ref()).contains("6.10"));
    let unseen = Attached {
        without_resets: Some("no such tracepoint".into()),
        ..Attached::default()
    };
    let check = resets(Some(&unseen));
    assert_eq!(check.status, Status::Degraded);
    assert!(text(check.costs.as_ref()).contains("the cause is unknown"));
    assert_eq!(resets(None).status, Status::Missing);
}

#[test]
fn tracefs_is_mounted_readable_and_of_a_known_layout() {
    let mounted = Host {
        tracefs: Some("/sys/kernel/tracing".into()),
        ..Host::read()
    };
    let hidden = Host {
        tracefs: None,
        ..mounted.clone()
    };
    let denied = || {
        Err(CaptureError::NoTracefs {
            path: "/sys/kernel/tracing/events".into(),
            source: io::ErrorKind::PermissionDenied.into(),
        })
    };
    let check = tracefs(&mounted, denied(), BTF);
    assert_eq!(check.status, Status::Missing);
    assert!(check.detail.contains("permission denied") && check.remedy.is_some());
    let check = tracefs(&hidden, denied(), BTF);
    assert_eq!(check.detail, "not mounted, or hidden from this user");
    let check = tracefs(&mounted, Ok("field:int else;\toffset:0;".to_owned()), BTF);
    assert_eq!(check.status, Status::Missing);
    assert!(check.detail.contains("skaddr"));
}

#[test]
fn run_times_are_measured_if_they_are_or_can_be_switched_on() {
    let denied = || {
        let io_error = io::Error::from_raw_os_error(libc::EPERM);
        Err(SyscallError {
            call: "bpf_enable_stats",
            io_error,
        })
    };
    assert_eq!(bpf_stats(Ok(()), Some(0)).status, Status::Ok);
    assert_eq!(bpf_stats(denied(), Some(1)).status, Status::Ok);
    assert_eq!(bpf_stats(denied(), Some(0)).status, Status::Degraded);
    assert_eq!(bpf_stats(denied(), None).status, Status::Degraded);
}

#[test]
fn sock_diag_answers_for_tcp_on_any_kernel_with_networking() {
    // Needs no privileges. Where the kernel has no tcp_diag, that is what it says.
    match try_sock_diag() {
        Ok(()) => {}
        Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOENT)),
    }
    assert!(
        sock_diag(Err(io::ErrorKind::NotFound.into()))
            .remedy
            .is_some()
    );
}
