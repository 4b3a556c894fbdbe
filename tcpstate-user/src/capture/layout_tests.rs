//! Tests of `layout`: invented BTF, and the texts of real kernels.

use super::*;

/// Linux 6.18, x86-64, as read.
const FORMAT_6_18: &str = "\
name: inet_sock_set_state
ID: 2287
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;
\tfield:unsigned char common_preempt_count;\toffset:3;\tsize:1;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

\tfield:const void * skaddr;\toffset:8;\tsize:8;\tsigned:0;
\tfield:int oldstate;\toffset:16;\tsize:4;\tsigned:1;
\tfield:int newstate;\toffset:20;\tsize:4;\tsigned:1;
\tfield:__u16 sport;\toffset:24;\tsize:2;\tsigned:0;
\tfield:__u16 dport;\toffset:26;\tsize:2;\tsigned:0;
\tfield:__u16 family;\toffset:28;\tsize:2;\tsigned:0;
\tfield:__u16 protocol;\toffset:30;\tsize:2;\tsigned:0;
\tfield:__u8 saddr[4];\toffset:32;\tsize:4;\tsigned:0;
\tfield:__u8 daddr[4];\toffset:36;\tsize:4;\tsigned:0;
\tfield:__u8 saddr_v6[16];\toffset:40;\tsize:16;\tsigned:0;
\tfield:__u8 daddr_v6[16];\toffset:56;\tsize:16;\tsigned:0;

print fmt: \"family=%s protocol=%s sport=%hu dport=%hu\", __print_symbolic(REC->family, { 2, \"AF_INET\" }, { 10, \"AF_INET6\" })
";

/// Linux 5.5: `protocol` was one byte, and all that follows stood one or two bytes earlier.
const FORMAT_5_5: &str = "\
name: inet_sock_set_state
ID: 1330
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;
\tfield:unsigned char common_preempt_count;\toffset:3;\tsize:1;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

\tfield:const void * skaddr;\toffset:8;\tsize:8;\tsigned:0;
\tfield:int oldstate;\toffset:16;\tsize:4;\tsigned:1;
\tfield:int newstate;\toffset:20;\tsize:4;\tsigned:1;
\tfield:__u16 sport;\toffset:24;\tsize:2;\tsigned:0;
\tfield:__u16 dport;\toffset:26;\tsize:2;\tsigned:0;
\tfield:__u16 family;\toffset:28;\tsize:2;\tsigned:0;
\tfield:__u8 protocol;\toffset:30;\tsize:1;\tsigned:0;
\tfield:__u8 saddr[4];\toffset:31;\tsize:4;\tsigned:0;
\tfield:__u8 daddr[4];\toffset:35;\tsize:4;\tsigned:0;
\tfield:__u8 saddr_v6[16];\toffset:39;\tsize:16;\tsigned:0;
\tfield:__u8 daddr_v6[16];\toffset:55;\tsize:16;\tsigned:0;
";

/// The text with everything after the common header moved by `by` bytes.
fn moved(text: &str, by: u32) -> String {
    let moved = text.lines().map(|line| {
        let Some((before, rest)) = line.split_once("offset:") else {
            return line.to_owned();
        };
        let (offset, after) = rest.split_once(';').unwrap();
        let offset: u32 = offset.parse().unwrap();
        let offset = if offset < 8 { offset } else { offset + by };
        format!("{before}offset:{offset};{after}")
    });
    moved.collect::<Vec<_>>().join("\n")
}

#[test]
fn both_known_layouts_of_the_record_are_accepted() {
    assert_eq!(parse_tracepoint_format(FORMAT_6_18).unwrap(), TP_BASE);
    assert_eq!(
        parse_tracepoint_format(&moved(FORMAT_6_18, 8)).unwrap(),
        TP_BASE_LAZY
    );
    let more = FORMAT_6_18.replace(
        "\nprint fmt",
        "\tfield:__u8 later;\toffset:72;\tsize:1;\tsigned:0;\n\nprint fmt",
    );
    assert_eq!(parse_tracepoint_format(&more).unwrap(), TP_BASE);
}

#[test]
fn other_layouts_of_the_record_are_refused_by_field() {
    let refused = |text: &str, words: &[&str]| {
        let message = parse_tracepoint_format(text).unwrap_err().to_string();
        for word in words {
            assert!(message.contains(word), "{message:?} does not say {word:?}");
        }
        assert!(
            message.contains("--attach btf"),
            "{message:?} does not say what to do"
        );
    };
    refused(
        FORMAT_5_5,
        &[
            "`protocol`",
            "1 byte(s) at offset 30",
            "expected 2 at 30",
            "5.6",
        ],
    );
    refused(
        &moved(FORMAT_6_18, 4),
        &["`skaddr` at offset 12", "expected 8 or 16"],
    );
    refused("", &["no field `skaddr`"]);
    refused("\0\u{fffd};;field:;field:;offset:", &["no field `skaddr`"]);

    // Cut anywhere, it is refused or whole.
    let last = FORMAT_6_18.find("size:16;\tsigned:0;\n\nprint").unwrap() + "size:16;".len();
    assert!(parse_tracepoint_format(&FORMAT_6_18[..last]).is_ok());
    for cut in 0..last {
        assert!(
            parse_tracepoint_format(&FORMAT_6_18[..cut]).is_err(),
            "accepted when cut at {cut}"
        );
    }

    for (field, offset, size) in TracepointRecord::FIELDS {
        let (offset, size) = (offset + 8, format!("size:{size};"));
        let place = format!("\toffset:{offset};\t{size}");
        let with = |other: &str| FORMAT_6_18.replace(&place, other);
        if field != "skaddr" {
            refused(
                &with(&format!("\toffset:{};\t{size}", offset + 1)),
                &[&format!("`{field}`")],
            );
            refused(
                &with(&format!("\toffset:{};\t{size}", u32::MAX)),
                &[&format!("`{field}`")],
            );
        }
        refused(
            &with(&format!("\toffset:{offset};\tsize:3;")),
            &[&format!("`{field}`"), "3 byte(s)"],
        );
        refused(
            &with(&format!("\toffset:99999999999999999999;\t{size}")),
            &[&format!("field `{field}`"), "99999999999999999999"],
        );
        refused(
            &with(&format!("\toffset:-1;\t{size}")),
            &[&format!("`{field}`"), "-1"],
        );
        refused(&with(""), &[&format!("`{field}`"), "without an offset"]);
        // A second field of that name elsewhere: which of the two would be read?
        let twice =
            format!("{FORMAT_6_18}\n\tfield:int {field};\toffset:200;\tsize:4;\tsigned:1;\n");
        refused(&twice, &[&format!("`{field}`"), "offset 200"]);
    }
}

proptest::proptest! {
    #[test]
    fn any_text_gives_an_answer(text in "\\PC*", field in "(field:|offset:|size:|skaddr|;|[0-9]{1,30}|\t|\n| ){0,40}") {
        let _ = parse_tracepoint_format(&text);
        let _ = parse_tracepoint_format(&field);
    }
}

/// Writes BTF as the kernel has it: a header, types, strings.
///
/// *Source:* `Documentation/bpf/btf.rst`.
#[derive(Default)]
struct Writer {
    types: Vec<u8>,
    strings: Vec<u8>,
    last: u32,
}

const INT: u32 = 1;
const PTR: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const FUNC: u32 = 12;
const FUNC_PROTO: u32 = 13;

impl Writer {
    fn new() -> Self {
        Self {
            strings: vec![0],
            ..Self::default()
        }
    }

    fn string(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        let at = u32::try_from(self.strings.len()).unwrap();
        self.strings.extend_from_slice(text.as_bytes());
        self.strings.push(0);
        at
    }

    /// A type: its kind, name, number of parts, size (or the type it points at) and what follows.
    fn add(&mut self, kind: u32, name: &str, parts: u32, size_or_type: u32, rest: &[u32]) -> u32 {
        let name = self.string(name);
        // Structures here have bit field widths in their members' offsets (kind_flag).
        let kind_flag = u32::from(kind == STRUCT || kind == UNION) << 31;
        let head = [name, kind_flag | kind << 24 | parts, size_or_type];
        for word in head.iter().chain(rest) {
            self.types.extend_from_slice(&word.to_le_bytes());
        }
        self.last += 1;
        self.last
    }

    fn int(&mut self, name: &str, bytes: u32) -> u32 {
        self.add(INT, name, 0, bytes, &[bytes * 8])
    }

    fn array(&mut self, of: u32, count: u32) -> u32 {
        self.add(ARRAY, "", 0, 0, &[of, of, count])
    }

    /// Members: name, type, offset in bytes, width as a bit field (0: none).
    fn composite(
        &mut self,
        kind: u32,
        name: &str,
        bytes: u32,
        members: &[(&str, u32, u32, u32)],
    ) -> u32 {
        let mut rest = Vec::new();
        for &(name, ty, offset, width) in members {
            rest.extend([self.string(name), ty, width << 24 | offset * 8]);
        }
        self.add(
            kind,
            name,
            u32::try_from(members.len()).unwrap(),
            bytes,
            &rest,
        )
    }

    fn btf(&self) -> Btf {
        let (types, strings) = (self.types.len(), self.strings.len());
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        for word in [24, 0, types, types, strings] {
            bytes.extend_from_slice(&u32::try_from(word).unwrap().to_le_bytes());
        }
        bytes.extend_from_slice(&self.types);
        bytes.extend_from_slice(&self.strings);
        Btf::from_bytes(&bytes).unwrap()
    }
}

/// A kernel with all that is needed and nothing else, and what a test changes about it.
struct Kernel {
    protocol: (u32, u32),
    shutdown_bits: u32,
    srtt_bytes: u32,
    cgroup: bool,
    flags: &'static str,
    socks: &'static [u32],
    cookie: bool,
    task_btf: bool,
    net: bool,
}

impl Default for Kernel {
    fn default() -> Self {
        Self {
            protocol: (2, 0),
            shutdown_bits: 0,
            srtt_bytes: 4,
            cgroup: true,
            flags: "skc_flags",
            socks: &[284],
            cookie: true,
            task_btf: true,
            net: true,
        }
    }
}

impl Kernel {
    fn btf(&self) -> Btf {
        let mut w = Writer::new();
        let (char, short, int, long) = (
            w.int("char", 1),
            w.int("short", 2),
            w.int("int", 4),
            w.int("long", 8),
        );
        let pointer = w.add(PTR, "", 0, int, &[]);
        let be32 = w.add(TYPEDEF, "__be32", 0, int, &[]);
        let volatile_short = w.add(VOLATILE, "", 0, short, &[]);

        let words = w.array(int, 4);
        let in6_u = w.composite(UNION, "", 16, &[("u6_addr32", words, 0, 0)]);
        let in6_addr = w.composite(STRUCT, "in6_addr", 16, &[("in6_u", in6_u, 0, 0)]);
        let kuid = w.composite(STRUCT, "", 4, &[("val", int, 0, 0)]);
        let kuid_t = w.add(TYPEDEF, "kuid_t", 0, kuid, &[]);
        let possible_net = w.composite(STRUCT, "", 8, &[("net", pointer, 0, 0)]);
        let possible_net_t = w.add(TYPEDEF, "possible_net_t", 0, possible_net, &[]);

        let addresses = w.composite(
            STRUCT,
            "",
            8,
            &[("skc_daddr", be32, 0, 0), ("skc_rcv_saddr", be32, 4, 0)],
        );
        let addrpair = w.composite(
            UNION,
            "",
            8,
            &[("skc_addrpair", long, 0, 0), ("", addresses, 0, 0)],
        );
        let ports = w.composite(
            STRUCT,
            "",
            4,
            &[("skc_dport", short, 0, 0), ("skc_num", short, 2, 0)],
        );
        let flags = w.composite(
            UNION,
            "",
            8,
            &[("skc_listener", pointer, 0, 0), (self.flags, long, 0, 0)],
        );
        let common = w.composite(
            STRUCT,
            "sock_common",
            104,
            &[
                ("", addrpair, 0, 0),
                ("", ports, 12, 0),
                ("skc_family", volatile_short, 16, 0),
                ("skc_net", possible_net_t, 48, 0),
                ("skc_v6_daddr", in6_addr, 56, 0),
                ("skc_v6_rcv_saddr", in6_addr, 72, 0),
                ("", flags, 96, 0),
            ],
        );
        let cgroup_name = if self.cgroup { "cgroup" } else { "val" };
        let cgroup_data = w.composite(
            STRUCT,
            "sock_cgroup_data",
            8,
            &[(cgroup_name, pointer, 0, 0)],
        );
        let protocol = if self.protocol.0 == 1 { char } else { short };
        for &err in self.socks {
            w.composite(
                STRUCT,
                "sock",
                784,
                &[
                    ("__sk_common", common, 0, 0),
                    ("sk_err", int, err, 0),
                    ("sk_uid", kuid_t, 528, 0),
                    ("sk_protocol", protocol, 532, self.protocol.1),
                    ("sk_shutdown", char, 575, self.shutdown_bits),
                    ("sk_cgrp_data", cgroup_data, 672, 0),
                ],
            );
        }
        let inet = w.composite(STRUCT, "inet_sock", 1016, &[("inet_sport", short, 814, 0)]);
        let connection = w.composite(
            STRUCT,
            "inet_connection_sock",
            1400,
            &[("icsk_inet", inet, 0, 0)],
        );
        let srtt = if self.srtt_bytes == 4 { int } else { long };
        w.composite(
            STRUCT,
            "tcp_sock",
            2304,
            &[
                ("inet_conn", connection, 16, 0),
                ("srtt_us", srtt, 1680, 0),
                ("bytes_sent", long, 1544, 0),
                ("bytes_received", long, 1752, 0),
                ("total_retrans", int, 2200, 0),
            ],
        );
        let ns = w.composite(STRUCT, "ns_common", 24, &[("inum", int, 16, 0)]);
        if self.net {
            w.composite(STRUCT, "net", 4288, &[("ns", ns, 160, 0)]);
        }
        w.composite(STRUCT, "cgroup", 2240, &[("kn", pointer, 256, 0)]);
        w.composite(STRUCT, "kernfs_node", 136, &[("id", long, 96, 0)]);
        let comm = w.array(char, 16);
        w.composite(
            STRUCT,
            "task_struct",
            3264,
            &[("tgid", int, 1268, 0), ("comm", comm, 1752, 0)],
        );

        let helper = w.string(if self.task_btf {
            "BPF_FUNC_get_current_task_btf"
        } else {
            "BPF_FUNC_unspec"
        });
        w.add(ENUM, "bpf_func_id", 1, 4, &[helper, 158]);
        let proto = w.add(FUNC_PROTO, "", 0, long, &[]);
        let function = if self.cookie {
            "bpf_get_socket_ptr_cookie"
        } else {
            "bpf_get_socket_cookie"
        };
        w.add(FUNC, function, 0, proto, &[]);
        w.btf()
    }

    fn refusal(&self) -> String {
        resolve_offsets(&self.btf()).unwrap_err().to_string()
    }
}

#[test]
fn members_are_found_through_anonymous_ones_and_typedefs() {
    let resolved = resolve_offsets(&Kernel::default().btf()).unwrap();
    let offsets = Offsets {
        sk_family: 16,
        sk_num: 14,
        sk_dport: 12,
        sk_daddr: 0,
        sk_rcv_saddr: 4,
        sk_v6_daddr: 56,
        sk_v6_rcv_saddr: 72,
        sk_net: 48,
        sk_protocol: 532,
        sk_err: 284,
        sk_shutdown: 575,
        sk_flags: 96,
        sk_uid: 528,
        sk_cgroup: 672,
        inet_sport: 830,
        tcp_srtt_us: 1680,
        tcp_bytes_sent: 1544,
        tcp_bytes_received: 1752,
        tcp_total_retrans: 2200,
        net_inum: 176,
        cgroup_kn: 256,
        kn_id: 96,
        task_comm: 1752,
        task_tgid: 1268,
    };
    assert_eq!(
        resolved,
        Resolved {
            offsets,
            has_cookie: true,
            has_task_btf: true,
            has_cgroup: true
        }
    );
}

#[test]
fn what_is_not_there_yet_is_done_without() {
    let resolved = resolve_offsets(
        &Kernel {
            cgroup: false,
            ..Kernel::default()
        }
        .btf(),
    )
    .unwrap();
    assert!(!resolved.has_cgroup && resolved.has_cookie && resolved.has_task_btf);
    let Offsets {
        sk_cgroup,
        cgroup_kn,
        kn_id,
        sk_err,
        ..
    } = resolved.offsets;
    assert_eq!((sk_cgroup, cgroup_kn, kn_id, sk_err), (0, 0, 0, 284));

    let resolved = resolve_offsets(
        &Kernel {
            cookie: false,
            ..Kernel::default()
        }
        .btf(),
    )
    .unwrap();
    assert!(!resolved.has_cookie && resolved.has_task_btf);

    let resolved = resolve_offsets(
        &Kernel {
            task_btf: false,
            ..Kernel::default()
        }
        .btf(),
    )
    .unwrap();
    assert!(resolved.has_cookie && !resolved.has_task_btf);
}

#[test]
fn a_layout_that_would_be_misread_is_refused_by_name() {
    // Linux 5.5.
    let refusal = Kernel {
        protocol: (4, 8),
        ..Kernel::default()
    }
    .refusal();
    assert_eq!(
        refusal,
        "the kernel's `struct sock` has `sk_protocol` as a bit field (8 wide), expected 2 bytes; \
         try --attach tracepoint"
    );
    let refusal = Kernel {
        protocol: (1, 0),
        ..Kernel::default()
    }
    .refusal();
    assert!(
        refusal.contains("`sk_protocol` as 1 byte, expected 2 bytes"),
        "{refusal}"
    );
    let refusal = Kernel {
        shutdown_bits: 2,
        ..Kernel::default()
    }
    .refusal();
    assert!(
        refusal.contains("`sk_shutdown` as a bit field (2 wide), expected 1 byte"),
        "{refusal}"
    );
    let refusal = Kernel {
        srtt_bytes: 8,
        ..Kernel::default()
    }
    .refusal();
    assert!(
        refusal.contains("`struct tcp_sock` has `srtt_us` as 8 bytes, expected 4"),
        "{refusal}"
    );
    let refusal = Kernel {
        flags: "skc_other",
        ..Kernel::default()
    }
    .refusal();
    assert!(
        refusal.contains("`struct sock` has no member `__sk_common.skc_flags`"),
        "{refusal}"
    );
    let refusal = Kernel {
        net: false,
        ..Kernel::default()
    }
    .refusal();
    assert!(refusal.contains("no `struct net`"), "{refusal}");
}

#[test]
fn structures_of_one_name_have_to_agree() {
    let twice = Kernel {
        socks: &[284, 284],
        ..Kernel::default()
    };
    assert_eq!(resolve_offsets(&twice.btf()).unwrap().offsets.sk_err, 284);
    let refusal = Kernel {
        socks: &[284, 288],
        ..Kernel::default()
    }
    .refusal();
    assert!(
        refusal.contains("more than one `struct sock`") && refusal.contains("`sk_err`"),
        "{refusal}"
    );
}

#[test]
fn a_loop_in_broken_btf_ends() {
    let mut w = Writer::new();
    w.composite(STRUCT, "sock", 8, &[("__sk_common", 2, 0, 0)]);
    // Two typedefs of each other, and a structure that contains itself.
    w.add(TYPEDEF, "one", 0, 3, &[]);
    w.add(TYPEDEF, "two", 0, 2, &[]);
    for (name, ty) in [("tcp_sock", 4), ("net", 5), ("task_struct", 6)] {
        w.composite(STRUCT, name, 8, &[("", ty, 0, 0)]);
    }
    let refusal = resolve_offsets(&w.btf()).unwrap_err();
    assert!(
        matches!(
            refusal,
            LayoutError::NoMember {
                structure: "sock",
                ..
            }
        ),
        "{refusal}"
    );
    let net = Structure::find(&w.btf(), "net")
        .unwrap()
        .at("ns.inum", Shape::Bytes(4));
    assert!(matches!(
        net,
        Err(LayoutError::NoMember {
            structure: "net",
            ..
        })
    ));
}
