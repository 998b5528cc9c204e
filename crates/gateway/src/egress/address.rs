//! Which addresses an agent may never reach, whatever name they hide behind.
//!
//! IPv6 is an allow-list: global unicast, less what lies in it for special use. Addresses that carry
//! an IPv4 address are judged by what they carry; those whose way out of a tunnel cannot be known
//! (6to4, Teredo, IPv4-compatible, a local NAT64 prefix) are refused whatever they carry.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why an address may not be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// This host.
    #[error("a loopback or unspecified address")]
    Loopback,
    /// The customer's own network.
    #[error("a private address")]
    Private,
    /// The local link; cloud metadata lives here.
    #[error("a link-local or metadata address")]
    LinkLocal,
    /// Many receivers.
    #[error("a multicast or broadcast address")]
    Multicast,
    /// Not for traffic between hosts on the internet.
    #[error("a reserved or documentation address")]
    Reserved,
    /// An IPv4 address inside an IPv6 address, with a way that cannot be known.
    #[error("an address of a transition tunnel")]
    Tunnel,
}

/// Checks an address, and what is embedded in it.
///
/// # Errors
/// The class of address for which it is refused.
pub fn check(address: IpAddr) -> Result<(), AddressError> {
    match address {
        IpAddr::V4(v4) => check_v4(v4),
        IpAddr::V6(v6) => check_v6(v6),
    }
}

fn check_v4(address: Ipv4Addr) -> Result<(), AddressError> {
    match address.octets() {
        [0 | 127, ..] => Err(AddressError::Loopback),
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Err(AddressError::Private),
        // Shared with the carrier; clouds put services here too (100.100.100.200).
        [100, 64..=127, ..] => Err(AddressError::Private),
        [169, 254, ..] => Err(AddressError::LinkLocal),
        // Azure answers for its host here although the range is public.
        [168, 63, 129, 16] => Err(AddressError::LinkLocal),
        [224..=239, ..] | [255, 255, 255, 255] => Err(AddressError::Multicast),
        [192, 0, 0 | 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Err(AddressError::Reserved),
        [198, 18 | 19, ..] | [240..=255, ..] => Err(AddressError::Reserved),
        [192, 88, 99, _] => Err(AddressError::Tunnel),
        _ => Ok(()),
    }
}

fn check_v6(address: Ipv6Addr) -> Result<(), AddressError> {
    let segments = address.segments();
    match segments {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => Err(AddressError::Loopback),
        // Mapped (RFC 4291), translated (RFC 2765) and NAT64 (RFC 6052): the packet goes to the IPv4 address.
        [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => check_v4(embedded(high, low)),
        [0, 0, 0, 0, 0, 0, ..] | [0x64, 0xff9b, ..] => Err(AddressError::Tunnel),
        [0x2002, ..] | [0x2001, 0, ..] => Err(AddressError::Tunnel),
        [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] => Err(AddressError::Private),
        [0xfe80..=0xfebf, ..] => Err(AddressError::LinkLocal),
        [0xff00..=0xffff, ..] => Err(AddressError::Multicast),
        // Protocol assignments 2001::/23, documentation 2001:db8::/32 and 3fff::/20.
        [0x2001, 0..=0x1ff | 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Err(AddressError::Reserved),
        [0x2000..=0x3fff, ..] => Ok(()),
        _ => Err(AddressError::Reserved),
    }
}

fn embedded(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from((u32::from(high) << 16) | u32::from(low))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(text: &str) -> bool {
        check(text.parse().unwrap()).is_err()
    }

    #[test]
    fn nothing_local_is_reachable() {
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.255.255.254",
            "10.0.0.7",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "100.100.100.200",
            "100.127.255.255",
            "169.254.169.254",
            "169.254.170.2",
            "168.63.129.16",
            "224.0.0.1",
            "239.1.1.1",
            "255.255.255.255",
            "240.0.0.1",
            "192.0.0.8",
            "192.0.2.1",
            "198.51.100.1",
            "203.0.113.1",
            "198.18.0.1",
            "198.19.255.255",
            "192.88.99.1",
            "::",
            "::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "2001:db8::1",
            "3fff::1",
            "2001::1",
            "2001:10::1",
            "100::1",
            "5f00::1",
            "4000::1",
            "1::1",
        ] {
            assert!(refused(text), "{text}");
        }
    }

    #[test]
    fn what_carries_a_local_address_is_refused() {
        for text in [
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0:10.0.0.1",
            "::10.0.0.1",
            "::8.8.8.8",
            "64:ff9b::169.254.169.254",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::8.8.8.8",
            "2002:7f00:1::",
            "2002:a00:1::1",
            "2002:808:808::1",
            "2001:0:808:808::1",
            "64:ff9b:1:a9fe:a9:fe00::",
        ] {
            assert!(refused(text), "{text}");
        }
    }

    #[test]
    fn the_internet_is_reachable() {
        for text in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "2606:4700:4700::1111",
            "2001:4860:4860::8888",
            "2a00:1450::1",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
        ] {
            assert!(!refused(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn an_embedded_address_is_never_freer_than_itself(bits: u32) {
            let v4 = Ipv4Addr::from(bits);
            if check_v4(v4).is_err() {
                let [a, b, c, d] = v4.octets().map(u16::from);
                let (high, low) = ((a << 8) | b, (c << 8) | d);
                for v6 in [
                    v4.to_ipv6_mapped(),
                    Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low),
                    Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, high, low),
                    Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
                    Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, high, low),
                    Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
                    Ipv6Addr::new(0x2001, 0, high, low, 0, 0, !high, !low),
                ] {
                    prop_assert!(check(IpAddr::V6(v6)).is_err(), "{v6}");
                }
            }
        }

        #[test]
        fn what_the_standard_library_calls_local_is_refused(bits: u32, wide: u128) {
            let v4 = Ipv4Addr::from(bits);
            if v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_multicast() || v4.is_broadcast()
                || v4.is_documentation() || v4.is_unspecified() {
                prop_assert!(check(v4.into()).is_err());
            }
            let v6 = Ipv6Addr::from(wide);
            if v6.is_multicast() || v6.is_unique_local() || v6.is_unicast_link_local() || v6.is_loopback() {
                prop_assert!(check(v6.into()).is_err());
            }
        }
    }
}
