//! Any bytes are BTF with the members that the programs read, or are refused.
#![no_main]

use btf_rs::Btf;
use libfuzzer_sys::fuzz_target;
use tcpstate_capture::layout::resolve_offsets;

fuzz_target!(|bytes: &[u8]| {
    let Ok(btf) = Btf::from_bytes(bytes) else {
        return;
    };
    match resolve_offsets(&btf) {
        Ok(resolved) => {
            let offsets = resolved.offsets;
            let cgroup = [offsets.sk_cgroup, offsets.cgroup_kn, offsets.kn_id];
            assert!(resolved.has_cgroup || cgroup == [0; 3]);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
