//! Where a server listens.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::str::FromStr;

const PORT: u16 = 11211;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no address of a server: HOST, HOST:PORT, [IPV6]:PORT or the path of a socket")]
pub struct BadAddress(String);

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let bad = || BadAddress(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:").or_else(|| text.starts_with('/').then_some(text)) {
            return if path.is_empty() { Err(bad()) } else { Ok(Self::Unix(path.into())) };
        }
        let (host, port) = match text.strip_prefix('[').map(|rest| rest.split_once(']').ok_or_else(bad)).transpose()? {
            Some((host, "")) => (host, None),
            Some((host, rest)) => (host, Some(rest.strip_prefix(':').ok_or_else(bad)?)),
            None => match text.split_once(':') {
                Some((host, port)) if !port.contains(':') => (host, Some(port)),
                // An IPv6 address without a port has more than one.
                Some(_) | None => (text, None),
            },
        };
        let port = port.map_or(Ok(PORT), |port| port.parse().map_err(|_| bad()))?;
        let v6 = |host: &str| host.split('%').next().is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
        let name = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || c.is_control());
        let sound = name && (v6(host) || !host.contains(':') && !text.starts_with('['));
        if sound { Ok(Self::Tcp { host: host.to_owned(), port }) } else { Err(bad()) }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) if path.is_absolute() => path.display().fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let tcp = |host: &str, port| Ok(Address::Tcp { host: host.into(), port });
        for (text, address, shown) in [
            ("localhost:11211", tcp("localhost", 11211), "localhost:11211"),
            ("cache", tcp("cache", 11211), "cache:11211"),
            ("10.0.0.1:1", tcp("10.0.0.1", 1), "10.0.0.1:1"),
            ("::1", tcp("::1", 11211), "[::1]:11211"),
            ("[::1]", tcp("::1", 11211), "[::1]:11211"),
            ("[fe80::1%eth0]:7", tcp("fe80::1%eth0", 7), "[fe80::1%eth0]:7"),
            ("/run/m.sock", Ok(Address::Unix("/run/m.sock".into())), "/run/m.sock"),
            ("unix:m.sock", Ok(Address::Unix("m.sock".into())), "unix:m.sock"),
        ] {
            let read = text.parse::<Address>();
            assert_eq!(read, address, "{text}");
            let again = read.expect("an address").to_string();
            assert_eq!(again, shown);
            assert_eq!(again.parse(), address);
        }
        for text in ["", ":", ":1", "a:", "a:b", "a:70000", "[::1", "[::1]x", "[]:1", "unix:", "a b", "a:-1", "a:b:1", "[a]:1"] {
            assert_eq!(text.parse::<Address>(), Err(BadAddress(text.into())));
        }
    }
}
