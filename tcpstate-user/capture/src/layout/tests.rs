//! Tests of `layout`: invented BTF, and the texts of real kernels.

use std::path::Path;

use tcpstate_common::config::TracepointRecord;

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
    assert_eq!(format::parse(FORMAT_6_18).unwrap(), TP_BASE);
    assert_eq!(format::parse(&moved(FORMAT_6_18, 8)).unwrap(), TP_BASE_LAZY);
    let more = FORMAT_6_18.replace(
        "\nprint fmt",
        "\tfield:__u8 later;\toffset:72;\tsize:1;\tsigned:0;\n\nprint fmt",
    );
    assert_eq!(format::parse(&more).unwrap(), TP_BASE);
}

#[test]
fn other_layouts_of_the_record_are_refused_by_field() {
    let refused = |text: &str, words: &[&str]| {
        let message = format::parse(text).unwrap_err().to_string();
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
    assert!(format::parse(&FORMAT_6_18[..last]).is_ok());
    for cut in 0..last {
        assert!(
            format::parse(&FORMAT_6_18[..cut]).is_err(),
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
        let _ = format::parse(&text);
        let _ = format::parse(&field);
    }
}

/// A kernel with all that is needed and nothing else, in the language of [`btf`].
const KERNEL: &str = "
    int char 1 | int short 2 | int int 4 | int long 8
    ptr pointer int
    typedef __be32 int
    volatile %volatile_short short | volatile %volatile_char char
    array %words int 4
    union %in6_u 16 u6_addr32:%words@0
    struct in6_addr 16 in6_u:%in6_u@0
    struct %kuid 4 val:int@0 | typedef kuid_t %kuid
    struct %atomic64 8 counter:long@0 | typedef atomic64_t %atomic64
    struct %possible_net 8 net:pointer@0 | typedef possible_net_t %possible_net
    struct %addresses 8 skc_daddr:__be32@0 skc_rcv_saddr:__be32@4
    union %addrpair 8 skc_addrpair:long@0 :%addresses@0
    struct %ports 4 skc_dport:short@0 skc_num:short@2
    union %flags 8 skc_listener:pointer@0 skc_flags:long@0
    struct sock_common 104 :%addrpair@0 :%ports@12 skc_family:%volatile_short@16 skc_state:%volatile_char@18 \
        skc_net:possible_net_t@48 skc_v6_daddr:in6_addr@56 skc_v6_rcv_saddr:in6_addr@72 \
        skc_cookie:atomic64_t@88 :%flags@96
    struct sk_buff_head 24 next:pointer@0 qlen:int@16
    array %cb char 48 | struct sk_buff 232 cb:%cb@40
    struct sock_extended_err 16 ee_errno:int@0
    struct sock_exterr_skb 44 ee:sock_extended_err@24
    struct sock_cgroup_data 8 cgroup:pointer@0
    struct sock 784 __sk_common:sock_common@0 sk_err:int@284 sk_err_soft:int@288 \
        sk_error_queue:sk_buff_head@192 sk_uid:kuid_t@528 \
        sk_protocol:short@532 sk_shutdown:char@575 sk_cgrp_data:sock_cgroup_data@672
    struct inet_sock 1016 inet_sport:short@814
    struct inet_connection_sock 1400 icsk_inet:inet_sock@0
    struct tcp_sock 2304 inet_conn:inet_connection_sock@16 bytes_sent:long@1544 srtt_us:int@1680 \
        bytes_received:long@1752 segs_out:int@1560 write_seq:int@1708 \
        total_retrans:int@2200
    struct ns_common 24 inum:int@16
    struct net 4288 ns:ns_common@160
    struct cgroup_subsys_state 240 cgroup:pointer@0 parent:pointer@208
    struct cgroup 2240 self:cgroup_subsys_state@0 kn:pointer@256
    struct kernfs_node 136 id:long@96
    array %comm char 16
    struct task_struct 3264 flags:int@44 tgid:int@1268 group_leader:pointer@1336 comm:%comm@1752
    enum bpf_func_id BPF_FUNC_get_current_task_btf
    func bpf_get_socket_ptr_cookie
    struct %kprobe_multi 24 addrs:long@0 count:int@8 flags:int@12 missed:long@16
    union %link_kinds 24 kprobe_multi:%kprobe_multi@0
    struct bpf_link_info 40 type:int@0 id:int@4 prog_id:int@8 :%link_kinds@16
    enum sk_rst_reason SK_RST_REASON_TCP_ABORT_ON_DATA=7 SK_RST_REASON_OF_LATER=8 SK_RST_REASON_MAX=99
    proto %send_reset pointer pointer pointer int | ptr %send_reset_pointer %send_reset
    typedef btf_trace_tcp_send_reset %send_reset_pointer
";

/// Makes BTF of declarations, one a line or between bars: `KIND NAME ...`. A name that begins with
/// `%` serves to refer to a type without a name. Members are `NAME:TYPE@OFFSET`, in bytes, with
/// `/BITS` behind it for a bit field; of an enum, `NAME=NUMBER`.
///
/// *Source:* `Documentation/bpf/btf.rst`.
fn btf(text: &str) -> Btf {
    Btf::from_bytes(&btf_bytes(text)).unwrap()
}

fn btf_bytes(text: &str) -> Vec<u8> {
    let mut ids = Vec::new();
    let mut strings = vec![0];
    let mut types = Vec::new();
    for declaration in text
        .split(['\n', '|'])
        .map(str::trim)
        .filter(|line| !line.is_empty())
    {
        let mut words = declaration.split_whitespace();
        let (kind, label) = (words.next().unwrap(), words.next().unwrap());
        let rest: Vec<_> = words.collect();
        let id = |name: &str| {
            // A name that is declared later is a forward reference by number.
            let at = ids.iter().rposition(|&known| known == name);
            at.map_or_else(
                || name.parse().unwrap(),
                |at| u32::try_from(at).unwrap() + 1,
            )
        };
        let mut string = |text: &str| {
            if text.is_empty() || text.starts_with('%') {
                return 0;
            }
            let at = u32::try_from(strings.len()).unwrap();
            strings.extend_from_slice(text.as_bytes());
            strings.push(0);
            at
        };
        let number = |text: &str| text.parse::<u32>().unwrap();
        let name = string(label);
        let count = u32::try_from(rest.len()).unwrap();
        // Word 1 of a type: kind, number of parts, and whether members carry bit field widths.
        let info = |kind: u32, parts: u32, widths: u32| (widths << 31) | (kind << 24) | parts;
        let mut encoded = match kind {
            "int" => vec![name, info(1, 0, 0), number(rest[0]), number(rest[0]) * 8],
            "ptr" => vec![0, info(2, 0, 0), id(rest[0])],
            "array" => vec![
                0,
                info(3, 0, 0),
                0,
                id(rest[0]),
                id(rest[0]),
                number(rest[1]),
            ],
            "struct" => vec![name, info(4, count - 1, 1), number(rest[0])],
            "union" => vec![name, info(5, count - 1, 1), number(rest[0])],
            "enum" => vec![name, info(6, count, 0), 4],
            "typedef" => vec![name, info(8, 0, 0), id(rest[0])],
            "volatile" => vec![0, info(9, 0, 0), id(rest[0])],
            "func" => vec![name, info(12, 0, 0), id("long")],
            "proto" => vec![0, info(13, count, 0), 0],
            other => panic!("what is a {other}?"),
        };
        if kind == "struct" || kind == "union" {
            for member in &rest[1..] {
                let (name, ty) = member.split_once(':').unwrap();
                let (ty, offset) = ty.split_once('@').unwrap();
                let (offset, bits) = offset.split_once('/').unwrap_or((offset, "0"));
                encoded.extend([
                    string(name),
                    id(ty),
                    (number(bits) << 24) | (number(offset) * 8),
                ]);
            }
        }
        for &part in &rest {
            match kind {
                "enum" => {
                    let (name, value) = part.split_once('=').unwrap_or((part, "158"));
                    encoded.extend([string(name), number(value)]);
                }
                "proto" => encoded.extend([0, id(part)]),
                _ => {}
            }
        }
        types.extend(encoded.into_iter().flat_map(u32::to_le_bytes));
        ids.push(label);
    }
    let mut bytes = vec![0x9f, 0xeb, 1, 0];
    for word in [24, 0, types.len(), types.len(), strings.len()] {
        bytes.extend_from_slice(&u32::try_from(word).unwrap().to_le_bytes());
    }
    bytes.extend(types);
    bytes.extend(strings);
    bytes
}

/// [`KERNEL`] with one thing changed.
fn kernel_with(from: &str, to: &str) -> Result<Resolved, LayoutError> {
    assert!(KERNEL.contains(from), "nothing to change: {from}");
    resolve_offsets(&btf(&KERNEL.replace(from, to)))
}

#[test]
fn members_are_found_through_anonymous_ones_and_typedefs() {
    let resolved = resolve_offsets(&btf(KERNEL)).unwrap();
    let offsets = Offsets {
        sk_family: 16,
        sk_state: 18,
        sk_num: 14,
        sk_dport: 12,
        sk_daddr: 0,
        sk_rcv_saddr: 4,
        sk_v6_daddr: 56,
        sk_v6_rcv_saddr: 72,
        sk_net: 48,
        sk_protocol: 532,
        sk_err: 284,
        sk_err_soft: 288,
        sk_error_first: 192,
        sk_error_qlen: 208,
        sk_shutdown: 575,
        sk_flags: 96,
        sk_uid: 528,
        sk_cookie: 88,
        sk_cgroup: 672,
        inet_sport: 830,
        tcp_srtt_us: 1680,
        tcp_bytes_sent: 1544,
        tcp_bytes_received: 1752,
        tcp_total_retrans: 2200,
        tcp_segs_out: 1560,
        tcp_write_seq: 1708,
        skb_errno: 64,
        net_inum: 176,
        cgroup_kn: 256,
        cgroup_parent: 208,
        css_cgroup: 0,
        kn_id: 96,
        task_comm: 1752,
        task_tgid: 1268,
        task_flags: 44,
        task_group_leader: 1336,
    };
    let mut reset_codes = [0; 64];
    reset_codes[7] = cause::reset_code("SK_RST_REASON_TCP_ABORT_ON_DATA").unwrap();
    assert_eq!(
        resolved,
        Resolved {
            offsets,
            has_cookie: true,
            has_task_btf: true,
            has_cgroup: true,
            counts_skipped: true,
            reset_codes: Some(reset_codes),
        }
    );
}

/// The seed of the fuzz target `btf` has all that is needed.
#[test]
fn the_seed_of_the_fuzz_target_is_a_kernel() {
    let seed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/btf/kernel");
    if std::env::var_os("TCPSTATE_BLESS").is_some() {
        std::fs::write(&seed, btf_bytes(KERNEL)).unwrap();
    }
    let resolved = Btf::from_file(&seed).map(|btf| resolve_offsets(&btf));
    assert!(
        matches!(resolved, Ok(Ok(_))),
        "TCPSTATE_BLESS=1 writes it anew: {resolved:?}"
    );
}

#[test]
fn features_of_newer_kernels_are_optional() {
    let before_5_15 = kernel_with("cgroup:pointer@0", "val:long@0").unwrap();
    assert!(!before_5_15.has_cgroup && before_5_15.has_cookie && before_5_15.has_task_btf);
    let Offsets {
        sk_cgroup,
        cgroup_kn,
        kn_id,
        sk_err,
        ..
    } = before_5_15.offsets;
    assert_eq!((sk_cgroup, cgroup_kn, kn_id, sk_err), (0, 0, 0, 284));
    assert!(!kernel_with("kn:pointer@256", "").unwrap().has_cgroup);

    // The helper's number is older than the permission to call it.
    let before_5_12 = kernel_with(
        "func bpf_get_socket_ptr_cookie",
        "func bpf_get_socket_cookie",
    );
    assert!(!before_5_12.as_ref().unwrap().has_cookie && before_5_12.unwrap().has_task_btf);
    let no_functions = kernel_with(
        "func bpf_get_socket_ptr_cookie",
        "typedef btf_bpf_get_socket_ptr_cookie pointer",
    );
    assert!(no_functions.unwrap().has_cookie);

    let before_5_11 = kernel_with("BPF_FUNC_get_current_task_btf", "BPF_FUNC_get_current_task");
    assert!(before_5_11.as_ref().unwrap().has_cookie && !before_5_11.unwrap().has_task_btf);

    let before_6_7 = kernel_with(" missed:long@16", "").unwrap();
    assert!(!before_6_7.counts_skipped && before_6_7.has_cgroup);
    let before_6_10 =
        kernel_with("pointer pointer pointer int", "pointer pointer pointer").unwrap();
    assert_eq!(before_6_10.reset_codes, None);

    let before_5_18 = kernel_with("kprobe_multi:%", "xdp:%").unwrap();
    assert!(!before_5_18.counts_skipped);
}

#[test]
fn a_layout_that_would_be_misread_is_refused_by_name() {
    let refusal = |from, to| kernel_with(from, to).unwrap_err().to_string();
    assert_eq!(
        refusal("sk_protocol:short@532", "sk_protocol:int@532/8"),
        "the kernel's `struct sock` has `sk_protocol` as a bit field (8 wide), expected 2 bytes; \
         try --attach tracepoint"
    );
    for (from, to, words) in [
        (
            "sk_protocol:short",
            "sk_protocol:char",
            "`struct sock` has `sk_protocol` as 1 byte, expected 2 bytes",
        ),
        (
            "sk_shutdown:char@575",
            "sk_shutdown:char@575/2",
            "`sk_shutdown` as a bit field (2 wide), expected 1 byte",
        ),
        (
            "srtt_us:int",
            "srtt_us:long",
            "`struct tcp_sock` has `srtt_us` as 8 bytes, expected 4 bytes",
        ),
        (
            "net:pointer",
            "net:long",
            "`__sk_common.skc_net.net` as 8 bytes, expected a pointer",
        ),
        (
            "comm char 16",
            "comm char 24",
            "`comm` as 24 bytes, expected 16 bytes",
        ),
        (
            "skc_flags",
            "skc_other",
            "`struct sock` has no member `__sk_common.skc_flags`",
        ),
        (
            "icsk_inet:",
            ":",
            "no member `inet_conn.icsk_inet.inet_sport`",
        ),
        ("struct net ", "struct nets ", "no `struct net`"),
    ] {
        let refusal = refusal(from, to);
        assert!(
            refusal.contains(words),
            "{refusal:?} does not say {words:?}"
        );
    }
}

#[test]
fn structures_of_one_name_have_to_agree() {
    let again = "struct net 4288 ns:ns_common@160";
    let twice = kernel_with(again, &format!("{again} | {again}"));
    assert_eq!(twice.unwrap().offsets.net_inum, 176);
    let differ = kernel_with(
        again,
        &format!("{again} | struct net 4288 ns:ns_common@168"),
    );
    assert!(matches!(
        differ,
        Err(LayoutError::Ambiguous {
            structure: "net",
            member: "ns.inum"
        })
    ));
}

#[test]
fn a_loop_in_broken_btf_ends() {
    let typedefs = btf("typedef one 2 | typedef two 1 | struct sock 8 __sk_common:one@0");
    let refusal = resolve_offsets(&typedefs);
    assert!(matches!(
        refusal,
        Err(LayoutError::NoStruct {
            structure: "tcp_sock"
        })
    ));
    let found = Structure::find(&typedefs, "sock")
        .unwrap()
        .at("__sk_common", Shape::Pointer);
    let Err(LayoutError::Member {
        found: Shape::Other("typedef"),
        ..
    }) = found
    else {
        panic!("{found:?}");
    };

    let inside_itself = btf("struct net 8 :1@0");
    let found = Structure::find(&inside_itself, "net")
        .unwrap()
        .at("inum", Shape::Bytes(4));
    assert!(matches!(
        found,
        Err(LayoutError::NoMember {
            structure: "net",
            ..
        })
    ));

    let dangling = btf("struct net 8 inum:77@0");
    let found = Structure::find(&dangling, "net")
        .unwrap()
        .at("inum", Shape::Bytes(4));
    assert!(matches!(found, Err(LayoutError::Btf { .. })));
}
