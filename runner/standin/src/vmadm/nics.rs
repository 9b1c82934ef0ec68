//! The list `nics` of a manifest: what may stand in it, and how it is kept.
//!
//! Pure. Nothing here makes an interface: on Linux a zone with any nic has
//! the host's network. The list is checked and filled in all the same, so
//! that a manifest for SmartOS is accepted or refused as there, and its
//! object is read by the same scripts.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Map, Value, json};

/// Properties of a nic that are kept beside those that are worked out.
const KEPT: [&str; 16] = [
    "allow_dhcp_spoofing",
    "allow_ip_spoofing",
    "allow_mac_spoofing",
    "allow_restricted_traffic",
    "allow_unfiltered_promisc",
    "allowed_ips",
    "blocked_outgoing_ports",
    "dhcp_server",
    "gateway",
    "gateways",
    "model",
    "mtu",
    "network_uuid",
    "nic_tag",
    "vlan_id",
    "vrrp_vrid",
];

/// An address of a nic.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Address {
    /// `dhcp` or `addrconf`.
    Asked(String),
    /// An address with its prefix, if one was given.
    Fixed(IpAddr, Option<u8>),
}

impl Address {
    fn parse(text: &str) -> Option<Address> {
        if matches!(text, "dhcp" | "addrconf") {
            return Some(Address::Asked(text.to_owned()));
        }
        let (ip, prefix) = match text.split_once('/') {
            Some((ip, prefix)) => (ip, Some(prefix.parse().ok()?)),
            None => (text, None),
        };
        let ip: IpAddr = ip.parse().ok()?;
        let most = if ip.is_ipv4() { 32 } else { 128 };
        let fits = prefix.is_none_or(|prefix: u8| prefix <= most);
        fits.then_some(Address::Fixed(ip, prefix))
    }

    fn text(&self) -> String {
        match self {
            Address::Asked(word) => word.clone(),
            Address::Fixed(ip, Some(prefix)) => format!("{ip}/{prefix}"),
            Address::Fixed(ip, None) => ip.to_string(),
        }
    }

    /// The older properties `ip` and `netmask`.
    fn old_form(&self) -> (String, Option<String>) {
        match self {
            Address::Asked(word) => (word.clone(), None),
            Address::Fixed(ip, prefix) => {
                let mask = prefix.filter(|_| ip.is_ipv4()).map(|prefix| {
                    let bits = u32::MAX.checked_shl(32 - u32::from(prefix));
                    Ipv4Addr::from(bits.unwrap_or(0)).to_string()
                });
                (ip.to_string(), mask)
            }
        }
    }
}

/// The addresses of a nic, in the new form or the old one.
fn addresses(nic: &Map<String, Value>) -> Option<Vec<Address>> {
    if let Some(ips) = nic.get("ips") {
        let parse = |one: &Value| Address::parse(one.as_str()?);
        return ips.as_array()?.iter().map(parse).collect();
    }
    let Some(ip) = nic.get("ip") else { return Some(Vec::new()) };
    let ip = Address::parse(ip.as_str()?)?;
    let mask = nic.get("netmask").and_then(Value::as_str);
    let prefix = match mask {
        Some(mask) => Some(mask.parse::<Ipv4Addr>().ok()?.to_bits()),
        None => None,
    };
    Some(vec![match (ip, prefix) {
        (Address::Fixed(ip, None), Some(bits)) => {
            Address::Fixed(ip, Some(bits.leading_ones() as u8))
        }
        (ip, _) => ip,
    }])
}

fn is_mac(text: &str) -> bool {
    let hex = |part: &str| {
        (1..=2).contains(&part.len())
            && part.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    text.split(':').count() == 6 && text.split(':').all(hex)
}

fn is_nic(value: &Value) -> bool {
    let Some(nic) = value.as_object() else { return false };
    let text = |name: &str, good: &dyn Fn(&str) -> bool| {
        nic.get(name).is_none_or(|one| one.as_str().is_some_and(good))
    };
    let tag = |text: &str| {
        let fine = |c: char| c.is_ascii_alphanumeric() || "_/-.".contains(c);
        !text.is_empty() && text.len() <= 255 && text.chars().all(fine)
    };
    let vlan = nic
        .get("vlan_id")
        .is_none_or(|id| id.as_u64().is_some_and(|id| id <= 4094));
    addresses(nic).is_some()
        && text("mac", &is_mac)
        && text("nic_tag", &tag)
        && text("interface", &tag)
        && text("gateway", &|text| text.parse::<Ipv4Addr>().is_ok())
        && vlan
}

/// Whether a value may stand under `nics`.
pub(super) fn are_nics(value: &Value) -> bool {
    value.as_array().is_some_and(|all| all.iter().all(is_nic))
}

/// Whether a value is a list of addresses, as under `resolvers`.
pub(super) fn are_addresses(value: &Value) -> bool {
    let one = |value: &Value| {
        value.as_str().is_some_and(|text| text.parse::<IpAddr>().is_ok())
    };
    value.as_array().is_some_and(|all| all.iter().all(one))
}

/// The list as it is kept: each nic with its name, its addresses in both
/// forms, and a MAC that stays; the first is primary if none is.
pub(super) fn filled_in(nics: &Value, random: impl Fn() -> [u8; 3]) -> Value {
    let empty = Vec::new();
    let nics = nics.as_array().unwrap_or(&empty);
    let is_primary = |nic: &Value| {
        matches!(nic.get("primary"), Some(Value::Bool(true)))
            || nic.get("primary").is_some_and(|word| word == "true")
    };
    let first = nics.iter().position(is_primary).unwrap_or(0);
    let kept = nics.iter().enumerate().filter_map(|(at, nic)| {
        let nic = nic.as_object()?;
        let mut out: Map<String, Value> = KEPT
            .iter()
            .filter_map(|name| Some(((*name).into(), nic.get(*name)?.clone())))
            .collect();
        let name = nic.get("interface").cloned();
        out.insert(
            "interface".into(),
            name.unwrap_or_else(|| format!("net{at}").into()),
        );
        let mac = nic.get("mac").cloned().unwrap_or_else(|| {
            let [a, b, c] = random();
            format!("02:08:20:{a:02x}:{b:02x}:{c:02x}").into()
        });
        out.insert("mac".into(), mac);
        let addresses = addresses(nic)?;
        if let Some(first) = addresses.first() {
            let (ip, mask) = first.old_form();
            out.insert("ip".into(), ip.into());
            out.extend(mask.map(|mask| ("netmask".into(), mask.into())));
            let ips: Vec<String> =
                addresses.iter().map(Address::text).collect();
            out.insert("ips".into(), json!(ips));
        }
        if at == first {
            out.insert("primary".into(), true.into());
        }
        Some(Value::Object(out))
    });
    kept.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nics_are_filled_in_as_smartos_does() {
        let given = json!([
            {"nic_tag": "admin", "ips": ["dhcp"], "shiny": 1},
            {"nic_tag": "external", "ip": "192.0.2.10", "mac": "2:8:20:1:2:3",
             "netmask": "255.255.255.0", "gateway": "192.0.2.1",
             "primary": "true"},
            {"ips": ["2001:db8::1/64", "192.0.2.11/25"]},
            {},
        ]);
        assert!(are_nics(&given));
        let found = filled_in(&given, || [1, 2, 255]);
        assert_eq!(
            found,
            json!([
                {"nic_tag": "admin", "interface": "net0", "ip": "dhcp",
                 "ips": ["dhcp"], "mac": "02:08:20:01:02:ff"},
                {"nic_tag": "external", "interface": "net1",
                 "ip": "192.0.2.10", "ips": ["192.0.2.10/24"],
                 "netmask": "255.255.255.0", "gateway": "192.0.2.1",
                 "mac": "2:8:20:1:2:3", "primary": true},
                {"interface": "net2", "ip": "2001:db8::1",
                 "ips": ["2001:db8::1/64", "192.0.2.11/25"],
                 "mac": "02:08:20:01:02:ff"},
                {"interface": "net3", "mac": "02:08:20:01:02:ff"},
            ])
        );
        assert_eq!(filled_in(&found, || [0; 3]), found, "twice is once");
    }

    #[test]
    fn bad_nics_are_refused() {
        for bad in [
            json!({}),
            json!(["x"]),
            json!([{"ips": "dhcp"}]),
            json!([{"ips": ["192.0.2.1/33"]}]),
            json!([{"ip": "nowhere"}]),
            json!([{"ip": "192.0.2.1", "netmask": "x"}]),
            json!([{"mac": "02:08"}]),
            json!([{"nic_tag": "a b"}]),
            json!([{"vlan_id": 4095}]),
            json!([{"gateway": "::1"}]),
        ] {
            assert!(!are_nics(&bad), "{bad}");
        }
        assert!(are_addresses(&json!(["192.0.2.53", "::1"])));
        assert!(!are_addresses(&json!(["192.0.2.53; rm"])));
    }
}
