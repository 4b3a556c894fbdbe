use super::*;

fn ports(list: &str) -> PortSet {
    list.parse().unwrap()
}

#[test]
fn the_default_matches_all_and_leaves_the_kernel_nothing_to_do() {
    let filter = Filter::default();
    assert!(filter.wants_all());
    assert_eq!(filter.kernel().config(), config::Filter::default());
    assert_eq!(filter.kernel().bitmaps(), [None; 3]);
    assert_eq!(filter.to_string(), "");
}

#[test]
fn the_kernel_part_carries_every_criterion() {
    let filter = Filter {
        family: Some(Family::Ipv6),
        lport: Some(ports("80")),
        rport: Some(ports("1-1023")),
        port: Some(ports("443")),
        netns: Some(4_026_531_840),
    };
    let kernel = filter.kernel();
    assert_eq!(
        kernel.config(),
        config::Filter {
            cgroup: 0,
            netns: 4_026_531_840,
            family: AF_INET6,
            lport: 1,
            rport: 1,
            port: 1,
            ..config::Filter::default()
        }
    );
    let sets = [&filter.lport, &filter.rport, &filter.port];
    let bitmaps = sets.map(|set| set.as_ref().map(PortSet::bitmap));
    assert_eq!(kernel.bitmaps(), bitmaps);
    assert_eq!(
        filter.to_string(),
        "-6 --lport 80 --rport 1-1023 --port 443 --netns 4026531840"
    );
}
