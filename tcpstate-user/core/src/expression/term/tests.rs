use crate::{
    expression::{
        Truth,
        tests::{Known, parse},
    },
    names::{Cgroup, Pod},
};

const ID: &str = "34dc0b5e626f2c5c4c5170e34b10e7654ce36f0fcd532739f4445baabea03376";
const UID: &str = "74c13223-5a00-11e9-b385-42010a80018d";

/// Judges a socket in this cgroup, and its negation.
fn judge(text: &str, cgroup: Option<&Cgroup>) -> Truth {
    let known = Known {
        cgroup: cgroup.cloned(),
        ..Known::default()
    };
    let text = text.replace("{uid}", UID);
    let truth = parse(&text).unwrap().judge(&known);
    let negated = parse(&format!("not ( {text} )")).unwrap().judge(&known);
    assert_eq!(negated, truth.not(), "{text}");
    truth
}

#[test]
fn units_match_as_for_systemctl() {
    let unit = |name| Cgroup::of(format!("/system.slice/{name}/a"));
    for (text, name, expected) in [
        ("unit nginx.service", "nginx.service", Truth::Yes),
        ("unit nginx", "nginx.service", Truth::Yes),
        ("unit nginx", "nginx.scope", Truth::No),
        ("unit ngin*", "nginx.service", Truth::Yes),
        ("unit a,nginx.service", "nginx.service", Truth::Yes),
        (
            "unit postgresql@15-main",
            "postgresql@15-main.service",
            Truth::Yes,
        ),
        ("unit *", "nginx.service", Truth::Yes),
        // As long as a process's name is at most, which is cut.
        (
            "unit systemd-networkd",
            "systemd-network.service",
            Truth::No,
        ),
        ("unit *", "runtime", Truth::No),
    ] {
        assert_eq!(judge(text, Some(&unit(name))), expected, "{text}: {name}");
    }
    assert_eq!(judge("unit *", None), Truth::Unknown);
}

#[test]
fn containers_match_by_their_ids_and_names() {
    let docker = Cgroup::of(format!("/docker/{ID}"));
    let named = docker.clone().with_container_name(Some("web-1".into()));
    let elsewhere = Cgroup::of("/system.slice/nginx.service");
    let shortest = ID.get(..12).unwrap_or_default();
    for (text, of_docker, of_named) in [
        ("container 34dc*", Truth::Yes, Truth::Yes),
        (&format!("container {shortest}"), Truth::Yes, Truth::Yes),
        (&format!("container {ID}"), Truth::Yes, Truth::Yes),
        // Too short to be without a `*`; it may be a name, but not of one that is looked for by digits.
        ("container 34dc", Truth::No, Truth::No),
        ("container 35dc*", Truth::No, Truth::No),
        ("container web-1", Truth::Unknown, Truth::Yes),
        ("container web-*,x", Truth::Unknown, Truth::Yes),
        ("container web-2", Truth::Unknown, Truth::No),
        ("container *", Truth::Yes, Truth::Yes),
    ] {
        assert_eq!(judge(text, Some(&docker)), of_docker, "{text}");
        assert_eq!(judge(text, Some(&named)), of_named, "{text}");
        assert_eq!(judge(text, Some(&elsewhere)), Truth::No, "{text}");
        assert_eq!(judge(text, None), Truth::Unknown, "{text}");
    }
}

#[test]
fn pods_match_by_their_names_and_uids() {
    let unnamed = Cgroup::of(format!("/kubepods/pod{UID}/{ID}"));
    let named = unnamed
        .clone()
        .with_pod(Some(Pod::new("shop", "web-x2x9z")));
    let elsewhere = Cgroup::of(format!("/docker/{ID}"));
    for (text, of_unnamed, of_named) in [
        ("pod shop/web-*", Truth::Unknown, Truth::Yes),
        ("pod shop/*", Truth::Unknown, Truth::Yes),
        ("pod */web-x2x9z", Truth::Unknown, Truth::Yes),
        ("pod web-*", Truth::Unknown, Truth::Yes),
        ("pod shop*", Truth::Unknown, Truth::No),
        ("pod other/web-*,x", Truth::Unknown, Truth::No),
        ("pod {uid}", Truth::Yes, Truth::Yes),
        ("pod *", Truth::Yes, Truth::Yes),
    ] {
        assert_eq!(judge(text, Some(&unnamed)), of_unnamed, "{text}");
        assert_eq!(judge(text, Some(&named)), of_named, "{text}");
        assert_eq!(judge(text, Some(&elsewhere)), Truth::No, "{text}");
        assert_eq!(judge(text, None), Truth::Unknown, "{text}");
    }
}
