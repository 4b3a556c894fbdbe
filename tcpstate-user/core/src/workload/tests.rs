use proptest::prelude::*;

use super::*;

/// Ids as they are in the documents that the paths come from.
const A: &str = "9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d";
const B: &str = "34dc0b5e626f2c5c4c5170e34b10e7654ce36f0fcd532739f4445baabea03376";
const UID: &str = "74c13223-5a00-11e9-b385-42010a80018d";
/// Of a pod from a file of the kubelet.
const STATIC: &str = "99dcb84d2a34f7e338778606703258c4";

/// A path with `{a}`, `{b}` (containers), `{uid}`, `{_uid}` (of a slice) and `{static}` filled in.
fn filled(path: &str) -> String {
    path.replace("{a}", A)
        .replace("{b}", B)
        .replace("{uid}", UID)
        .replace("{_uid}", &UID.replace('-', "_"))
        .replace("{static}", STATIC)
}

/// Paths with their units: the tests that systemd has for these functions, and paths of real hosts.
///
/// *Source:* `src/test/test-cgroup-util.c` of systemd.
const UNITS: &[(&str, &str)] = &[
    ("/system.slice/foobar.service/sdfdsaf", "foobar.service"),
    ("/system.slice/getty@tty5.service", "getty@tty5.service"),
    (
        "/system.slice/getty@tty5.service/aaa/bbb",
        "getty@tty5.service",
    ),
    ("/system.slice/getty@tty5.service/", "getty@tty5.service"),
    (
        "/system.slice/getty@tty6.service/tty5",
        "getty@tty6.service",
    ),
    ("sadfdsafsda", "-"),
    ("/system.slice/getty####@tty6.service/xxx", "-"),
    (
        "/system.slice/system-waldo.slice/foobar.service/sdfdsaf",
        "foobar.service",
    ),
    (
        "/system.slice/system-waldo.slice/_cpu.service/sdfdsaf",
        "cpu.service",
    ),
    (
        "/user.slice/user-1000.slice/user@.service/server.service",
        "-",
    ),
    // Units of users.
    (
        "/user.slice/user-1000.slice/user@1000.service/server.service",
        "server.service",
    ),
    (
        "/user.slice/user-1000.slice/session-2.scope/foobar.service",
        "foobar.service",
    ),
    (
        "/user.slice/user-1000.slice/session-2.scope/waldo.slice/foobar.service",
        "foobar.service",
    ),
    (
        "/user.slice/user-1002.slice/session-2.scope/foobar.service/waldo/uuuux",
        "foobar.service",
    ),
    (
        "/user.slice/user-1000.slice/session-2.scope/waldo/waldo/uuuux",
        "session-2.scope",
    ),
    (
        "/session-2.scope/foobar@pie.service/pa/po",
        "foobar@pie.service",
    ),
    (
        "/xyz.slice/xyz-waldo.slice/session-77.scope/foobar@pie.service/pa/po",
        "foobar@pie.service",
    ),
    ("/meh.service", "meh.service"),
    ("/session-3.scope/_cpu.service", "cpu.service"),
    (
        "/user.slice/user-1000.slice/user@1000.service/foobar.slice/foobar@pie.service",
        "foobar@pie.service",
    ),
    (
        "/user.slice/user-1000.slice/user@1000.service/app.slice/app-gnome-firefox-4711.scope",
        "app-gnome-firefox-4711.scope",
    ),
    (
        "/user.slice/user-1000.slice/user@1000.service/init.scope",
        "init.scope",
    ),
    (
        "/user.slice/user-1000.slice/user@1000.service",
        "user@1000.service",
    ),
    (
        "/capsule.slice/capsule@web.service/app.slice/web.service",
        "web.service",
    ),
    // A user's number, and nothing else.
    (
        "/user.slice/user@root.service/server.service",
        "user@root.service",
    ),
    ("/init.scope", "init.scope"),
    (
        "/system.slice/system-postgresql.slice/postgresql@15-main.service",
        "postgresql@15-main.service",
    ),
    (
        "/system.slice/system-systemd\\x2dfsck.slice/systemd-fsck@dev-disk-by\\x2duuid-4bb7.service",
        "systemd-fsck@dev-disk-by\\x2duuid-4bb7.service",
    ),
    (
        "/machine.slice/systemd-nspawn@web.service/payload/system.slice/nginx.service",
        "systemd-nspawn@web.service",
    ),
    ("/system.slice", "-"),
    ("/", "-"),
    ("", "-"),
    ("/../../system.slice/a.service", "-"),
    ("/kubepods/burstable", "-"),
    ("/a.unit", "-"),
    ("/.service", "-"),
    ("/@a.service", "-"),
];

#[test]
fn units_are_those_that_systemd_names() {
    for &(path, expected) in UNITS {
        let found = Workload::of(path).unit;
        assert_eq!(found.unwrap_or("-"), expected, "{path}");
    }
    let longest = format!("{}.service", "x".repeat(247));
    assert_eq!(
        Workload::of(&format!("/a.slice/{longest}")).unit,
        Some(&*longest)
    );
    assert_eq!(Workload::of(&format!("/a.slice/x{longest}")).unit, None);
}

/// Paths with their units, containers and pods.
///
/// *Source:* the tests and documents of containerd, CRI-O, Docker, Podman, kind, cAdvisor and the
/// detectors of OpenTelemetry.
const FORMS: &[(&str, &str, &str, &str)] = &[
    // Docker.
    (
        "/system.slice/docker-{a}.scope",
        "docker-{a}.scope",
        "{a}",
        "-",
    ),
    ("/docker/{a}", "-", "{a}", "-"),
    ("/{a}", "-", "{a}", "-"),
    (
        "/system.slice/docker-{a}.scope/system.slice/nginx.service",
        "docker-{a}.scope",
        "{a}",
        "-",
    ),
    (
        "/ecstasks.slice/ecstasks-0a1b.slice/docker-{a}.scope",
        "docker-{a}.scope",
        "{a}",
        "-",
    ),
    ("/ecs/0a1b/{a}", "-", "{a}", "-"),
    (
        "/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{a}.scope",
        "docker-{a}.scope",
        "{a}",
        "-",
    ),
    // In Docker.
    ("/docker/{a}/docker/{b}", "-", "{b}", "-"),
    // containerd, by its tools.
    (
        "/system.slice/nerdctl-{a}.scope",
        "nerdctl-{a}.scope",
        "{a}",
        "-",
    ),
    ("/default/{a}", "-", "{a}", "-"),
    // containerd, for Kubernetes.
    (
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{_uid}.slice/cri-containerd-{a}.scope",
        "cri-containerd-{a}.scope",
        "{a}",
        "{uid}",
    ),
    (
        "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{_uid}.slice/cri-containerd-{a}.scope",
        "cri-containerd-{a}.scope",
        "{a}",
        "{uid}",
    ),
    (
        "/kubepods.slice/kubepods-pod{_uid}.slice/cri-containerd-{a}.scope",
        "cri-containerd-{a}.scope",
        "{a}",
        "{uid}",
    ),
    (
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid}.slice/docker-{a}.scope",
        "docker-{a}.scope",
        "{a}",
        "{uid}",
    ),
    ("/kubepods/besteffort/pod{uid}/{a}", "-", "{a}", "{uid}"),
    ("/kubepods/burstable/pod{uid}/{a}", "-", "{a}", "{uid}"),
    ("/kubepods/pod{uid}/{a}", "-", "{a}", "{uid}"),
    ("/../../pod{uid}/{a}", "-", "{a}", "{uid}"),
    (
        "/system.slice/containerd.service/kubepods-besteffort-pod{_uid}.slice:cri-containerd:{a}",
        "containerd.service",
        "{a}",
        "{uid}",
    ),
    (
        "/kubepods-burstable-pod{_uid}.slice:crio:{a}",
        "-",
        "{a}",
        "{uid}",
    ),
    // CRI-O.
    (
        "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{_uid}.slice/crio-{a}.scope",
        "crio-{a}.scope",
        "{a}",
        "{uid}",
    ),
    (
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{_uid}.slice/crio-{a}.scope/container",
        "crio-{a}.scope",
        "{a}",
        "{uid}",
    ),
    ("/kubepods/burstable/pod{uid}/crio-{a}", "-", "{a}", "{uid}"),
    (
        "/kubepods.slice/kubepods-pod{_uid}.slice/crio-conmon-{a}.scope",
        "crio-conmon-{a}.scope",
        "-",
        "{uid}",
    ),
    // A static pod in kind: on its node, and seen from the host.
    (
        "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{static}.slice/cri-containerd-{a}.scope",
        "cri-containerd-{a}.scope",
        "{a}",
        "{static}",
    ),
    (
        "/system.slice/docker-{b}.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{_uid}.slice/cri-containerd-{a}.scope",
        "docker-{b}.scope",
        "{a}",
        "{uid}",
    ),
    (
        "/docker/{b}/kubelet/kubepods/besteffort/pod{uid}/{a}",
        "-",
        "{a}",
        "{uid}",
    ),
    // Podman.
    (
        "/machine.slice/libpod-{a}.scope/container",
        "libpod-{a}.scope",
        "{a}",
        "-",
    ),
    (
        "/machine.slice/machine-libpod_pod_{b}.slice/libpod-{a}.scope",
        "libpod-{a}.scope",
        "{a}",
        "-",
    ),
    (
        "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{a}.scope/container",
        "libpod-{a}.scope",
        "{a}",
        "-",
    ),
    ("/libpod_parent/libpod-{a}", "-", "{a}", "-"),
    (
        "/system.slice/nginx.service/libpod-payload-{a}",
        "nginx.service",
        "{a}",
        "-",
    ),
    (
        "/user.slice/user-1000.slice/user@1000.service/app.slice/redis.service/libpod-payload-{a}",
        "redis.service",
        "{a}",
        "-",
    ),
    (
        "/system.slice/nginx.service/runtime",
        "nginx.service",
        "-",
        "-",
    ),
    (
        "/machine.slice/libpod-conmon-{a}.scope",
        "libpod-conmon-{a}.scope",
        "-",
        "-",
    ),
    // Nothing of the kind.
    (
        "/system.slice/var-lib-docker-containers-{a}-mounts-shm.mount",
        "var-lib-docker-containers-{a}-mounts-shm.mount",
        "-",
        "-",
    ),
    ("/docker/{a}0", "-", "-", "-"),
    ("/docker/9ec39b91f3d7", "-", "-", "-"),
    ("/other-{a}", "-", "-", "-"),
    ("/kubepods/burstable/podweb/web", "-", "-", "-"),
    ("/podium/pod", "-", "-", "-"),
    (
        "/notkubepods.slice/notkubepods-pod{_uid}.slice/web.service",
        "web.service",
        "-",
        "-",
    ),
    ("/kubepods.slice/kubepods-burstable.slice", "-", "-", "-"),
];

#[test]
fn containers_and_pods_are_found_in_the_forms_of_all_drivers() {
    for &(path, unit, container, pod) in FORMS {
        let path = filled(path);
        let found = Workload::of(&path);
        let or_dash = |text: Option<&str>| text.unwrap_or("-").to_owned();
        assert_eq!(
            (
                or_dash(found.unit),
                or_dash(found.container),
                or_dash(found.pod_uid.as_deref())
            ),
            (filled(unit), filled(container), filled(pod)),
            "{path}"
        );
    }
}

/// Components of real paths, and what may stand between and instead of them.
fn component() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "",
        "..",
        "system.slice",
        "_",
        "-.slice",
        "session-2.scope",
        "user@1000.service",
        "user@.service",
        "docker-{a}.scope",
        "{a}",
        "pod{uid}",
        "pod{_uid}",
        "kubepods-pod{_uid}.slice",
        "kubepods-pod{_uid}.slice:cri-containerd:{a}",
        ".slice:{a}",
        "libpod-payload-{b}",
        "é.service",
        "\u{1b}[2J",
        "@.@",
        "pod",
        ":",
    ]);
    prop_oneof![
        known.prop_map(filled),
        any::<String>(),
        "[-_.@:a-f0-9/]{0,80}"
    ]
}

proptest! {
    /// Whatever the path, nothing panics, and every name is a part of it.
    #[test]
    fn names_are_parts_of_the_path(components in prop::collection::vec(component(), 0..12)) {
        let path = components.join("/");
        let found = Workload::of(&path);
        for name in [found.unit, found.container].into_iter().flatten() {
            prop_assert!(!name.is_empty() && path.contains(name), "{name}");
        }
        if let Some(uid) = &found.pod_uid {
            let is_there = path.contains(&**uid) || path.replace('_', "-").contains(&**uid);
            prop_assert!(is_there && uid.len() <= path.len(), "{uid}");
        }
        if let Some(unit) = found.unit {
            prop_assert!(is_unit_name(unit) && !is_slice(unit));
        }
    }
}
