//! Units, containers and pods, by real cgroups in the forms that systemd, the container runtimes and the kubelet make.
//!
//! A cgroup root of the test's own stands before each form, as `--cgroup-parent` of Docker and `--cgroup-root` of the
//! kubelet put it there. The pods have real folders in `/var/log/pods`.

use std::{
    fs,
    io::ErrorKind,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::{
    cgroup::Cgroup,
    need::{Need, trial},
    net::{Netns, await_that, unused_port},
    process::{BINARY, Tcpstate, run},
    programs::{Identity, Server, client},
    serve::{Scrape, Served},
};

pub fn add(trials: &mut Vec<Trial>) {
    // One after the other: both make the folders that name pods.
    let both = || {
        units_containers_and_pods()?;
        labels_of_metrics()
    };
    trials.push(trial(
        "names::units_containers_and_pods",
        &[Need::Btf],
        both,
    ));
}

const POD_LOGS: &str = "/var/log/pods";
const DOCKER: &str = "/var/lib/docker";

/// A form of a path, and the unit and the kind of the container in it. `{n}` is a number of the test's own, `{id}` a
/// container's id, `{uid}` and `{_uid}` a pod's.
const FORMS: [(&str, Option<&str>, Kind); 14] = [
    (
        "tcpstate{n}.slice/web.service",
        Some("web.service"),
        Kind::None,
    ),
    (
        "tcpstate{n}.slice/system-db.slice/db@1\\x2da.service/worker",
        Some("db@1\\x2da.service"),
        Kind::None,
    ),
    (
        "tcpstate{n}.slice/user@1000.service/app.slice/shop.service",
        Some("shop.service"),
        Kind::None,
    ),
    (
        "tcpstate{n}.slice/session-2.scope",
        Some("session-2.scope"),
        Kind::None,
    ),
    (
        "tcpstate{n}.slice/docker-{id}.scope",
        Some("docker-{id}.scope"),
        Kind::Docker,
    ),
    ("tcpstate-{n}/docker/{id}", None, Kind::Docker),
    (
        "tcpstate{n}.slice/libpod-{id}.scope/container",
        Some("libpod-{id}.scope"),
        Kind::Container,
    ),
    (
        "tcpstate{n}.slice/redis.service/libpod-payload-{id}",
        Some("redis.service"),
        Kind::Container,
    ),
    (
        "tcpstate-{n}/libpod_parent/libpod-{id}",
        None,
        Kind::Container,
    ),
    (
        "tcpstate{n}.slice/tcpstate{n}-kubepods.slice/tcpstate{n}-kubepods-burstable.slice/tcpstate{n}-kubepods-burstable-pod{_uid}.slice/cri-containerd-{id}.scope",
        Some("cri-containerd-{id}.scope"),
        Kind::Pod,
    ),
    (
        "tcpstate{n}.slice/tcpstate{n}-kubepods.slice/tcpstate{n}-kubepods-pod{_uid}.slice/crio-{id}.scope/container",
        Some("crio-{id}.scope"),
        Kind::Pod,
    ),
    (
        "tcpstate-{n}/kubepods/besteffort/pod{uid}/{id}",
        None,
        Kind::Pod,
    ),
    ("tcpstate-{n}/kubepods/pod{uid}/crio-{id}", None, Kind::Pod),
    // In a node of kind.
    (
        "tcpstate{n}.slice/docker-{node}.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{_uid}.slice/cri-containerd-{id}.scope",
        Some("docker-{node}.scope"),
        Kind::Pod,
    ),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    None,
    /// Its name is in Docker's state.
    Docker,
    Container,
    Pod,
}

/// A service in a cgroup of one of the forms.
struct Place {
    /// Its port, which nothing else has.
    port: u16,
    path: String,
    unit: Option<String>,
    kind: Kind,
    id: String,
    uid: String,
}

impl Place {
    fn new(number: u16, (path, unit, kind): (&str, Option<&str>, Kind)) -> Self {
        let port = unused_port();
        // Of the ids that others see, the first digits tell them apart.
        let id = format!(
            "{:016x}",
            u64::from(port).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        )
        .repeat(4);
        let uid = format!("{port:08x}-5a00-11e9-b385-42010a80018d");
        let filled = |text: &str| {
            text.replace("{n}", &number.to_string())
                .replace("{id}", &id)
                .replace("{node}", &format!("{:064x}", u64::from(port) << 32))
                .replace("{uid}", &uid)
                .replace("{_uid}", &uid.replace('-', "_"))
        };
        Self {
            port,
            path: filled(path),
            unit: unit.map(filled),
            kind,
            id,
            uid,
        }
    }

    fn pod(&self) -> String {
        format!("web-{}", self.port)
    }

    fn container_name(&self) -> String {
        format!("db-{}", self.port)
    }

    /// The labels of its metrics.
    fn labels(&self, docker_has_names: bool) -> [String; 5] {
        let is_pod = self.kind == Kind::Pod;
        let container = match self.kind {
            Kind::None => "none".to_owned(),
            Kind::Docker if docker_has_names => self.container_name(),
            _ => self.id[..12].to_owned(),
        };
        let none = || "none".to_owned();
        [
            ("unit", self.unit.clone().unwrap_or_else(none)),
            ("container", container),
            ("pod", if is_pod { self.pod() } else { none() }),
            (
                "namespace",
                if is_pod { "tcpstate-test" } else { "none" }.to_owned(),
            ),
            ("comm", "server".to_owned()),
        ]
        .map(|(name, value)| format!("{name}={value:?}"))
    }

    /// Checks the names in a line about one of its sockets.
    fn check(&self, line: &Value, docker_has_names: bool) -> Result<()> {
        let is_pod = self.kind == Kind::Pod;
        let is_named = self.kind == Kind::Docker && docker_has_names;
        for (field, expected) in [
            ("cgroup", Some(format!("/{}", self.path))),
            ("unit", self.unit.clone()),
            (
                "container",
                (self.kind != Kind::None).then(|| self.id.clone()),
            ),
            ("container_name", is_named.then(|| self.container_name())),
            ("pod", is_pod.then(|| self.pod())),
            ("pod_namespace", is_pod.then(|| "tcpstate-test".to_owned())),
            ("pod_uid", is_pod.then(|| self.uid.clone())),
        ] {
            ensure!(
                line[field].as_str() == expected.as_deref(),
                "{field}: expected {expected:?}: {line}"
            );
        }
        Ok(())
    }
}

/// Cgroups with all that are above them, removed when this is dropped.
#[derive(Default)]
struct Tree(Vec<Cgroup>);

impl Tree {
    /// Makes a cgroup and returns it.
    fn add(&mut self, path: &str) -> Result<&Cgroup> {
        let ends = path.match_indices('/').map(|(at, _)| at);
        for end in ends.chain([path.len()]) {
            let path = &path[..end];
            if !self.0.iter().any(|cgroup| cgroup.path()[1..] == *path) {
                self.0.push(Cgroup::new(path)?);
            }
        }
        let path = format!("/{path}");
        let found = self.0.iter().find(|cgroup| cgroup.path() == path);
        found.context("no cgroup")
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // The inner ones first.
        while self.0.pop().is_some() {}
    }
}

/// Folders and files, removed when this is dropped, with those above them that are then empty and were not there.
#[derive(Default)]
struct Files(Vec<PathBuf>);

impl Files {
    fn folder(&mut self, path: &Path) -> Result<()> {
        let all: Vec<&Path> = path.ancestors().collect();
        for folder in all.into_iter().rev() {
            match fs::create_dir(folder) {
                Ok(()) => self.0.push(folder.to_owned()),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).with_context(|| folder.display().to_string()),
            }
        }
        Ok(())
    }

    fn file(&mut self, path: PathBuf, text: &str) -> Result<()> {
        self.folder(path.parent().context("no parent")?)?;
        fs::write(&path, text)?;
        self.0.push(path);
        Ok(())
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        while let Some(path) = self.0.pop() {
            // Another test may need it too.
            let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir(&path));
        }
    }
}

/// Makes the folders that name the pods, and where there is no Docker, its state. Returns whether there was none: the
/// state of one that is here is not touched.
fn name(places: &[Place]) -> Result<(Files, bool)> {
    let mut files = Files::default();
    let docker_has_names = !Path::new(DOCKER).exists();
    for place in places {
        let folder = format!("{POD_LOGS}/tcpstate-test_{}_{}", place.pod(), place.uid);
        match place.kind {
            Kind::Pod => files.folder(Path::new(&folder))?,
            Kind::Docker if docker_has_names => {
                let config = Path::new(DOCKER).join("containers").join(&place.id);
                let text = format!(r#"{{"Name":"/{}"}}"#, place.container_name());
                files.file(config.join("config.v2.json"), &text)?;
            }
            _ => {}
        }
    }
    Ok((files, docker_has_names))
}

/// Processes in the cgroups of the places, which are made.
fn identities(places: &[Place], tree: &mut Tree) -> Result<Vec<Identity>> {
    let identities = places.iter().map(|place| {
        let cgroup = tree.add(&place.path)?;
        Ok(Identity::new("server", 54_003, cgroup))
    });
    identities.collect()
}

/// Whether a filter selects the sockets of a place.
type Wanted = Box<dyn Fn(&Place) -> bool>;

fn filters(places: &[Place]) -> Vec<(String, Wanted)> {
    let one = |port| move |place: &Place| place.port == port;
    let (docker, pod) = (&places[4], &places[9]);
    vec![
        ("unit web".to_owned(), Box::new(one(places[0].port))),
        (
            format!("container {}", &docker.id[..12]),
            Box::new(one(docker.port)),
        ),
        (
            format!("container *{}", &docker.id[40..]),
            Box::new(one(docker.port)),
        ),
        (
            "pod tcpstate-test/web-*".to_owned(),
            Box::new(|place| place.kind == Kind::Pod),
        ),
        (format!("pod {}", pod.pod()), Box::new(one(pod.port))),
        (
            "not pod * and not unit *".to_owned(),
            Box::new(|place| place.kind != Kind::Pod && place.unit.is_none()),
        ),
    ]
}

fn units_containers_and_pods() -> Result<()> {
    let number = unused_port();
    let places: Vec<Place> = FORMS.map(|form| Place::new(number, form)).into();
    let (files, docker_has_names) = name(&places)?;
    let mut tree = Tree::default();
    let identities = identities(&places, &mut tree)?;
    let list: Vec<String> = places.iter().map(|place| place.port.to_string()).collect();
    let list = list.join(",");

    let folder = tempfile::tempdir()?;
    let file = folder.path().join("recording");
    let file = file.to_str().context("no text")?;
    let filters = filters(&places);
    let start = |words: &[&str]| Tcpstate::start(&[words, &["-P", &list]].concat());
    let trace = start(&["trace", "--json"])?;
    let rates = start(&["rates", "10m", "--by", "pod", "--json"])?;
    let hist = start(&["hist", "--of", "transitions", "--by", "unit", "--json"])?;
    let record = start(&["record", "--json", "-w", file])?;
    let filtered = filters.iter().map(|(filter, _)| {
        // The options stand before the words.
        let words = ["life", "--json", "-P", &list];
        Tcpstate::start(&[&words[..], &filter.split(' ').collect::<Vec<_>>()].concat())
    });
    let filtered = filtered.collect::<Result<Vec<_>>>()?;

    let listed = Netns::new()?.run_until_quiet(|| {
        let servers = places.iter().zip(&identities).map(|(place, who)| {
            let server = Server::start(who, Ipv4Addr::LOCALHOST, place.port)?;
            client(who, Ipv4Addr::LOCALHOST, place.port, 2)?;
            Ok(server)
        });
        let servers = servers.collect::<Result<Vec<_>>>()?;
        let listed = pods_listed()?;
        servers.into_iter().try_for_each(Server::stop)?;
        Ok(listed)
    })?;

    let of = |line: &Value| {
        let port = &line["service_port"];
        places.iter().find(|place| *port == place.port)
    };
    let check = |lines: &[Value], is_wanted: &dyn Fn(&Place) -> bool, each: usize| {
        for line in lines {
            let place = of(line).with_context(|| line.to_string())?;
            ensure!(is_wanted(place), "not wanted: {line}");
            place.check(line, docker_has_names)?;
        }
        for place in places.iter().filter(|place| is_wanted(place)) {
            let found = lines
                .iter()
                .filter(|line| line["service_port"] == place.port);
            let found = found.count();
            ensure!(found >= each, "{}: {found} lines", place.path);
        }
        Ok(())
    };
    // Two connections have two ends each, with at least three changes.
    check(&trace.stop()?.json()?.0, &|_| true, 12).context("trace")?;
    check(&listed, &|place| place.kind == Kind::Pod, 1).context("ls")?;
    for ((filter, is_wanted), tcpstate) in filters.iter().zip(filtered) {
        check(&tcpstate.stop()?.json()?.0, is_wanted, 4).with_context(|| filter.clone())?;
    }
    by_group(&rates.stop()?.json()?.0, &hist.stop()?.json()?.0, &places)?;
    record.stop()?.json()?;
    // The recording names what is gone.
    drop(files);
    for (filter, is_wanted) in &filters {
        let words = ["life", "--json", "-r", file];
        let words = [&words[..], &filter.split(' ').collect::<Vec<_>>()].concat();
        let lines = run(BINARY, &words)?.json()?.0;
        check(&lines, is_wanted, 4).with_context(|| format!("-r: {filter}"))?;
    }
    Ok(())
}

/// `tcpstate serve --labels`, in its sandbox.
fn labels_of_metrics() -> Result<()> {
    const ENDS: &str = "tcpstate_workload_connections_closed_total";
    const SOCKETS: &str = "tcpstate_workload_connections";
    let number = unused_port();
    let places: Vec<Place> = FORMS.map(|form| Place::new(number, form)).into();
    let (_files, docker_has_names) = name(&places)?;
    let mut tree = Tree::default();
    let identities = identities(&places, &mut tree)?;
    let running = Served::start(&["--json", "--labels", "comm,unit,container,pod,namespace"])?;
    let servers = running.netns.run(|| {
        let servers = places.iter().zip(&identities).map(|(place, who)| {
            let server = Server::start(who, Ipv4Addr::LOCALHOST, place.port)?;
            client(who, Ipv4Addr::LOCALHOST, place.port, 2)?;
            Ok(server)
        });
        servers.collect::<Result<Vec<_>>>()
    })?;
    let sum = |scrape: &Scrape, metric: &str, place: &Place, label: &str| {
        let labels = place.labels(docker_has_names);
        let labels = labels.iter().map(String::as_str).chain([label]);
        scrape.sum(metric, &labels.collect::<Vec<_>>())
    };
    let mut last = Scrape(String::new());
    await_that("the ends are counted, and a look has the listeners", || {
        last = Scrape(running.get("/metrics")?.1);
        let missing = last.sum("tcpstate_events_lost_total", &[])
            + last.sum("tcpstate_transitions_missing_total", &[]);
        Ok(missing > 0
            || places.iter().all(|place| {
                sum(&last, ENDS, place, "") >= 4
                    && sum(&last, SOCKETS, place, "state=\"LISTEN\"") >= 1
            }))
    })?;
    running.tcpstate.stop()?;
    servers.into_iter().try_for_each(Server::stop)?;
    for place in &places {
        // Two connections have two ends each.
        for (metric, label, made) in [(ENDS, "", 4), (SOCKETS, "state=\"LISTEN\"", 1)] {
            let found = sum(&last, metric, place, label);
            ensure!(
                found == made,
                "{}: {found} {metric}: {}",
                place.path,
                last.0
            );
        }
    }
    // Each end has one combination of labels.
    let all = last.sum("tcpstate_connections_closed_total", &[]);
    ensure!(last.sum(ENDS, &[]) == all, "not {all}: {}", last.0);
    Ok(())
}

/// The listeners of all pods in the namespace of the calling thread.
fn pods_listed() -> Result<Vec<Value>> {
    let words = [
        "ls", "--json", "--netns", "self", "state", "listen", "pod", "*",
    ];
    let output = run(BINARY, &words)?;
    ensure!(output.status.success(), "{output:?}");
    let lines = output.stdout.lines().map(serde_json::from_str::<Value>);
    let lines = lines.collect::<serde_json::Result<Vec<_>>>()?;
    let sockets = lines.into_iter().filter(|line| line["type"] == "socket");
    Ok(sockets.collect())
}

/// Each pod and each unit is a group of its own.
fn by_group(rates: &[Value], hist: &[Value], places: &[Place]) -> Result<()> {
    let groups = rates.iter().filter_map(|line| line["pods"].as_array());
    let groups: Vec<&Value> = groups.flatten().collect();
    for place in places.iter().filter(|place| place.kind == Kind::Pod) {
        let found = groups.iter().filter(|group| group["pod_uid"] == place.uid);
        let names = found.map(|group| [group["pod"].as_str(), group["pod_namespace"].as_str()]);
        let names: Vec<_> = names.collect();
        ensure!(
            names == [[Some(&*place.pod()), Some("tcpstate-test")]],
            "{}: {groups:?}",
            place.path
        );
    }
    let histograms = hist.iter().filter(|line| line["type"] == "histogram");
    let units: Vec<&Value> = histograms.map(|line| &line["unit"]).collect();
    for place in places {
        let unit = Value::from(place.unit.clone());
        let count = units.iter().filter(|&&found| *found == unit).count();
        ensure!(count == 1, "{unit}: {units:?}");
    }
    Ok(())
}
