//! Topologies: processors, nodes, distances and what the firmware tells of latency, as QEMU options.

use anyhow::{Context as _, Result, bail};

/// A preset `N` or `N+Mcxl` (`+cxl` is `+1cxl`), or raw QEMU options where it begins with `-`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topology {
    /// Nodes with processors, and nodes without.
    Nodes {
        near: u32,
        far: u32,
    },
    Raw(Vec<String>),
}

/// Most nodes that a preset makes.
const MOST: u32 = 16;

impl std::str::FromStr for Topology {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.starts_with('-') {
            return Ok(Self::Raw(text.split_whitespace().map(str::to_owned).collect()));
        }
        let hint = "a topology is 1, 2, 4, 2+cxl, 4+2cxl or QEMU options that begin with a dash";
        let (near, far) = match text.split_once('+') {
            None => (text, 0),
            Some((near, "cxl")) => (near, 1),
            Some((near, far)) => (near, far.strip_suffix("cxl").and_then(|n| n.parse().ok()).context(hint)?),
        };
        let near = near.parse().ok().context(hint)?;
        if near == 0 || near + far > MOST {
            bail!("{text}: at least one node with processors, at most {MOST} nodes in all");
        }
        Ok(Self::Nodes { near, far })
    }
}

impl Topology {
    /// Of a preset; raw options keep theirs to themselves.
    pub const fn nodes(&self) -> u32 {
        match self {
            Self::Nodes { near, far } => *near + *far,
            Self::Raw(_) => 1,
        }
    }

    /// What the machine type needs.
    pub const fn machine(&self) -> &'static str {
        match self {
            Self::Nodes { far: 1.., .. } => ",hmat=on",
            Self::Nodes { far: 0, .. } | Self::Raw(_) => "",
        }
    }

    /// `mib` for each node; `cpus` in all, at least one for each node that has any.
    pub fn options(&self, mib: u32, cpus: Option<u32>) -> Vec<String> {
        let (near, far) = match self {
            Self::Raw(options) => return options.clone(),
            &Self::Nodes { near, far } => (near, far),
        };
        let (all, per) = (near + far, (cpus.unwrap_or(2) / near).max(1));
        let mut out = Vec::new();
        let mut say = |option: &str, value: String| out.extend([option.to_owned(), value]);
        say("-smp", format!("{},sockets={near},cores={per},threads=1", per * near));
        say("-m", format!("{}M", mib * all));
        if all == 1 {
            return out;
        }
        for node in 0..all {
            say("-object", format!("memory-backend-ram,id=m{node},size={mib}M"));
            let cpus = if node < near { format!(",cpus={}-{}", node * per, (node + 1) * per - 1) } else { String::new() };
            let initiator = if far == 0 { String::new() } else { format!(",initiator={}", if node < near { node } else { 0 }) };
            say("-numa", format!("node,nodeid={node},memdev=m{node}{cpus}{initiator}"));
        }
        for (a, b) in (0..all).flat_map(|a| (a + 1..all).map(move |b| (a, b))) {
            say("-numa", format!("dist,src={a},dst={b},val={}", if b < near { 21 } else { 40 }));
        }
        for (from, to) in (0..near).flat_map(|from| (0..all).map(move |to| (from, to))).filter(|_| far > 0) {
            let (latency, bandwidth) = match to {
                _ if to == from => (10, 200),
                _ if to < near => (20, 100),
                _ => (300, 20),
            };
            let pair = format!("hmat-lb,initiator={from},target={to},hierarchy=memory,data-type=access");
            say("-numa", format!("{pair}-latency,latency={latency}"));
            say("-numa", format!("{pair}-bandwidth,bandwidth={bandwidth}G"));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_and_raw_options() {
        let nodes = |text: &str| text.parse::<Topology>().ok();
        assert_eq!(nodes("2+cxl"), Some(Topology::Nodes { near: 2, far: 1 }));
        assert_eq!(nodes("4+2cxl"), Some(Topology::Nodes { near: 4, far: 2 }));
        assert_eq!(nodes("-smp 3 -m 1G"), Some(Topology::Raw(["-smp", "3", "-m", "1G"].map(str::to_owned).to_vec())));
        for bad in ["", "0", "two", "2+", "2+x", "1+cxlcxl", "16+cxl"] {
            assert_eq!(nodes(bad), None, "{bad}");
        }
    }

    #[test]
    fn every_pair_has_a_distance_and_every_initiator_a_latency() {
        let options = Topology::Nodes { near: 2, far: 1 }.options(256, None);
        assert_eq!(options[..4], ["-smp", "2,sockets=2,cores=1,threads=1", "-m", "768M"]);
        assert_eq!(options.iter().filter(|o| o.starts_with("dist,")).count(), 3);
        assert_eq!(options.iter().filter(|o| o.contains("-latency,")).count(), 6);
        assert!(options.contains(&"node,nodeid=2,memdev=m2,initiator=0".to_owned()));
        assert_eq!(Topology::Nodes { near: 1, far: 0 }.options(512, None), ["-smp", "2,sockets=1,cores=2,threads=1", "-m", "512M"]);
    }
}
