//! What is measured, by name: frame size, rules, flows, in the manner of CSIT.
//!
//! | Name | Load |
//! |---|---|
//! | `64b-1000r-10kf` | 64-byte packets of 10,000 established flows under 1,000 rules |
//! | `imix-1r-1f` | the sizes of the simple Internet mix, one rule, one flow |
//! | `64b-100r-new` | every packet is the first of a flow, to a port used before; 100 rules |
//! | `64b-100r-first` | every packet is the first to its port, 100 rules |
//! | `apps-1000r` | TCP streams, request/response and connections under 1,000 rules |
//! | `ethip6-78b-1000r-10kf` | the same over IPv6, any of them with `ethip6-` in front |
//!
//! Sizes are those of frames with their check sequence, as RFC 2544 counts them. UDP over IPv6
//! has 78 bytes at least, as in CSIT, so that a label has room.
//! `k` is a thousand, `m` a million.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The most rules of a scenario: contenders list an address for each (a /16 of them).
pub const MAX_RULES: u32 = 60_000;
/// The most flows.
pub const MAX_FLOWS: u32 = 2_000_000;

/// What there is, for whoever names something else.
const GRAMMAR: &str = "There are SIZE-RULES-FLOWS and apps-RULES, over IPv6 with ethip6- in front. \
     SIZE: 64b to 1518b, over IPv6 from 78b, imix; RULES: 1r to 60kr; FLOWS: 1f to 2mf, new, first. \
     E.g. 64b-1000r-10kf, 64b-100r-new, imix-1r-1f, apps-1000r, ethip6-78b-1r-1f";

/// What a name over IPv6 begins with, as CSIT's do.
const IPV6: &str = "ethip6-";

/// One cell of the grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Scenario {
    /// Over which IP.
    pub family: Family,
    /// Rules of a packet filter, or policies of Weir.
    pub rules: u32,
    /// What is sent.
    pub load: Load,
}

/// An IP family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    #[default]
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The least size of a frame of UDP with room for a label, FCS included.
    fn least(self) -> u16 {
        match self {
            Self::V4 => 64,
            Self::V6 => 78,
        }
    }
}

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Load {
    /// Packets of one size, or of a mix.
    Packets {
        /// The frames.
        size: Size,
        /// The flows.
        flows: Flows,
    },
    /// Applications: TCP streams, request and response, connections.
    Apps,
}

/// Bytes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Size {
    /// All alike, 64 to 1518.
    Bytes(u16),
    /// The simple Internet mix.
    Imix,
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{bytes}b"),
            Self::Imix => write!(f, "imix"),
        }
    }
}

impl fmt::Display for Flows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Established(flows) => write!(f, "{}f", Count(*flows)),
            Self::New => write!(f, "new"),
            Self::First => write!(f, "first"),
        }
    }
}

/// The flows to which the packets belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Flows {
    /// So many, established before anything is measured, used in turn.
    Established(u32),
    /// Every packet is the first of its flow, to a port that other flows have used: what
    /// was decided for those may be remembered.
    New,
    /// Every packet is the first of its flow and the first to its port: somebody has to
    /// decide.
    First,
}

impl Scenario {
    /// The flows that the contender's table has to hold.
    pub fn table_flows(self) -> u32 {
        match self.load {
            Load::Packets { flows: Flows::Established(flows), .. } => flows,
            Load::Packets { flows: Flows::New | Flows::First, .. } | Load::Apps => 50_000,
        }
    }

    /// The name of the load alone, whatever the rules.
    pub fn load_name(self) -> String {
        let family = if self.family == Family::V6 { IPV6 } else { "" };
        match self.load {
            Load::Apps => format!("{family}apps"),
            Load::Packets { size, flows } => format!("{family}{size}-{flows}"),
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.family == Family::V6 {
            f.write_str(IPV6)?;
        }
        match self.load {
            Load::Apps => write!(f, "apps-{}r", self.rules),
            Load::Packets { size, flows } => write!(f, "{size}-{}r-{flows}", self.rules),
        }
    }
}

/// A number with `k` or `m`, where it is a multiple.
#[derive(Clone, Copy, Debug)]
struct Count(u32);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n > 0 && n % 1_000_000 == 0 => write!(f, "{}m", n / 1_000_000),
            n if n > 0 && n % 1000 == 0 => write!(f, "{}k", n / 1000),
            n => write!(f, "{n}"),
        }
    }
}

impl FromStr for Scenario {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let wrong = |what: &str| format!("{name:?} is no scenario: {what}. {GRAMMAR}");
        let (family, rest) =
            name.strip_prefix(IPV6).map_or((Family::V4, name), |rest| (Family::V6, rest));
        let parts: Vec<&str> = rest.split('-').collect();
        let rules = |text: &str| {
            counted(text, "r")
                .filter(|rules| (1..=MAX_RULES).contains(rules))
                .ok_or_else(|| wrong(&format!("rules are 1r to {MAX_RULES}r")))
        };
        match parts[..] {
            ["apps", count] => Ok(Self { family, rules: rules(count)?, load: Load::Apps }),
            [size, count, flows] => {
                let size = if size == "imix" {
                    Size::Imix
                } else {
                    let bytes = size.strip_suffix('b').and_then(|bytes| bytes.parse().ok());
                    let least = family.least();
                    Size::Bytes(
                        bytes.filter(|bytes| (least..=1518).contains(bytes)).ok_or_else(|| {
                            wrong(&format!("the size is {least}b to 1518b, or imix"))
                        })?,
                    )
                };
                let flows = if flows == "new" {
                    Flows::New
                } else if flows == "first" {
                    Flows::First
                } else {
                    Flows::Established(
                        counted(flows, "f")
                            .filter(|flows| (1..=MAX_FLOWS).contains(flows))
                            .ok_or_else(|| wrong("flows are 1f to 2mf, new or first"))?,
                    )
                };
                Ok(Self { family, rules: rules(count)?, load: Load::Packets { size, flows } })
            }
            _ => Err(wrong("it has other parts")),
        }
    }
}

/// Reads `10k` and a unit.
fn counted(text: &str, unit: &str) -> Option<u32> {
    let number = text.strip_suffix(unit)?;
    let (number, factor) = match number.strip_suffix(['k', 'm']) {
        Some(rest) if number.ends_with('k') => (rest, 1000),
        Some(rest) => (rest, 1_000_000),
        None => (number, 1),
    };
    number.parse::<u32>().ok()?.checked_mul(factor)
}

impl From<Scenario> for String {
    fn from(scenario: Scenario) -> Self {
        scenario.to_string()
    }
}

impl TryFrom<String> for Scenario {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        name.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_size_rules_and_flows() {
        let scenario: Scenario = "64b-1000r-10kf".parse().unwrap();
        let load = Load::Packets { size: Size::Bytes(64), flows: Flows::Established(10_000) };
        let family = Family::V4;
        assert_eq!(scenario, Scenario { family, rules: 1000, load });
        let scenario: Scenario = "imix-1r-new".parse().unwrap();
        let load = Load::Packets { size: Size::Imix, flows: Flows::New };
        assert_eq!(scenario, Scenario { family, rules: 1, load });
        let scenario: Scenario = "apps-10kr".parse().unwrap();
        assert_eq!(scenario, Scenario { family, rules: 10_000, load: Load::Apps });
        let scenario: Scenario = "ethip6-78b-1r-1kf".parse().unwrap();
        let load = Load::Packets { size: Size::Bytes(78), flows: Flows::Established(1000) };
        assert_eq!(scenario, Scenario { family: Family::V6, rules: 1, load });
        assert_eq!(scenario.load_name(), "ethip6-78b-1kf");
    }

    #[test]
    fn a_name_that_is_written_is_read_again() {
        for name in [
            "64b-1r-1f",
            "1518b-10kr-1mf",
            "imix-100r-100f",
            "64b-100r-new",
            "64b-100r-first",
            "apps-1000r",
            "ethip6-apps-1000r",
            "ethip6-imix-10r-new",
            "ethip6-78b-1r-10kf",
        ] {
            let scenario: Scenario = name.parse().unwrap();
            assert_eq!(scenario.to_string().parse::<Scenario>().unwrap(), scenario, "{name}");
        }
    }

    #[test]
    fn what_is_no_scenario_is_refused_with_the_reason() {
        for (name, reason) in [
            ("63b-1r-1f", "64b to 1518b"),
            ("1519b-1r-1f", "64b to 1518b"),
            ("64-1r-1f", "64b to 1518b"),
            ("ethip6-64b-1r-1f", "78b to 1518b"),
            ("ethip6-ethip6-apps-1r", "78b to 1518b"),
            ("64b-0r-1f", "rules are"),
            ("64b-1r-3mf", "flows are"),
            ("64b-1r-99999999999f", "flows are"),
            ("64b-1r-9999999mf", "flows are"),
            ("64b-1r", "other parts"),
            ("", "other parts"),
        ] {
            let error = name.parse::<Scenario>().unwrap_err();
            assert!(error.contains(reason), "{name}: {error}");
        }
    }
}
