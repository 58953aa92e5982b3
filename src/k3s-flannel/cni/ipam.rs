//! Addresses of pods, one file per lease: `<dir>/<ip>` holds the container's id and interface, in
//! the format of the reference `host-local` plugin.
//!
//! Invariant: the files are the truth. A lease exists from before its address is used until after
//! it is not; leases of an earlier boot are void, since no namespace survives one.

use super::protocol::Attachment;
use ipnetwork::Ipv4Network;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

const BOOT_FILE: &str = "boot_id";
const LAST_FILE: &str = "last_reserved_ip.0";

/// The leases of one node.
#[derive(Debug)]
pub struct Ipam {
    dir: PathBuf,
    leases: BTreeMap<Ipv4Addr, Attachment>,
    last: Option<Ipv4Addr>,
}

impl Ipam {
    /// Reads the leases; `boot_id` is the kernel's identity of the running boot.
    pub fn open(dir: &Path, boot_id: &str) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let marker = dir.join(BOOT_FILE);
        let same_boot = fs::read_to_string(&marker).is_ok_and(|id| id.trim() == boot_id.trim());
        let mut ipam = Self { dir: dir.into(), leases: BTreeMap::new(), last: None };
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(ip) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            match parse_lease(&text) {
                Some(lease) if same_boot => {
                    ipam.leases.insert(ip, lease);
                }
                _ => remove(&entry.path())?,
            }
        }
        let last = fs::read_to_string(dir.join(LAST_FILE)).unwrap_or_default();
        ipam.last = last.trim().parse().ok();
        if !same_boot {
            fs::write(marker, boot_id.trim())?;
        }
        Ok(ipam)
    }

    /// Leases the next free address after the last one given, so that a freed address rests.
    pub fn allocate(&mut self, cidr: Ipv4Network, to: &Attachment) -> io::Result<Ipv4Addr> {
        let first = u32::from(cidr.network()) + 2;
        let end = u32::from(cidr.broadcast());
        let after = match self.last.map(u32::from) {
            Some(last) if (first..end).contains(&last) => last + 1,
            _ => first,
        };
        let free = (after..end)
            .chain(first..after)
            .map(Ipv4Addr::from)
            .find(|ip| !self.leases.contains_key(ip));
        let Some(ip) = free else {
            let text = format!("no free address left in {cidr}");
            return Err(io::Error::new(io::ErrorKind::StorageFull, text));
        };
        let path = self.dir.join(ip.to_string());
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
        file.write_all(format!("{}\r\n{}", to.container, to.interface).as_bytes())?;
        self.leases.insert(ip, to.clone());
        self.last = Some(ip);
        // Only a hint for the order: losing it does no harm.
        let _ = fs::write(self.dir.join(LAST_FILE), ip.to_string());
        Ok(ip)
    }

    /// Gives back every address of the attachment; none is fine.
    pub fn release(&mut self, from: &Attachment) -> io::Result<Vec<Ipv4Addr>> {
        let held = self.leases.iter().filter(|(_, lease)| *lease == from);
        let held: Vec<Ipv4Addr> = held.map(|(ip, _)| *ip).collect();
        for ip in &held {
            remove(&self.dir.join(ip.to_string()))?;
            self.leases.remove(ip);
        }
        Ok(held)
    }

    pub fn address_of(&self, attachment: &Attachment) -> Option<Ipv4Addr> {
        let mut leases = self.leases.iter();
        leases.find(|(_, lease)| *lease == attachment).map(|(ip, _)| *ip)
    }

    /// The attachments that hold an address and are not in `valid`.
    pub fn stale(&self, valid: &BTreeSet<Attachment>) -> Vec<Attachment> {
        let leases = self.leases.values();
        leases.filter(|a| !valid.contains(a)).cloned().collect()
    }

    pub fn len(&self) -> usize {
        self.leases.len()
    }

    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }
}

fn parse_lease(text: &str) -> Option<Attachment> {
    let mut lines = text.lines().map(str::trim);
    let container = lines.next().filter(|id| !id.is_empty())?.to_string();
    let interface = lines.next().unwrap_or("eth0").to_string();
    Some(Attachment { container, interface })
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(container: &str) -> Attachment {
        let (container, interface) = (container.into(), "eth0".into());
        Attachment { container, interface }
    }

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("ipam-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        dir
    }

    #[test]
    fn leases_survive_and_freed_addresses_rest() {
        let dir = scratch("survive");
        let cidr: Ipv4Network = "10.42.0.0/29".parse().unwrap();
        let mut ipam = Ipam::open(&dir, "boot").unwrap();
        let a = ipam.allocate(cidr, &attachment("a")).unwrap();
        assert_eq!(a, Ipv4Addr::new(10, 42, 0, 2));
        ipam.release(&attachment("a")).unwrap();
        let b = ipam.allocate(cidr, &attachment("b")).unwrap();
        assert_eq!(b, Ipv4Addr::new(10, 42, 0, 3));
        let mut again = Ipam::open(&dir, "boot").unwrap();
        assert_eq!(again.address_of(&attachment("b")), Some(b));
        for name in ["c", "d", "e", "f"] {
            again.allocate(cidr, &attachment(name)).unwrap();
        }
        assert!(again.allocate(cidr, &attachment("g")).is_err());
        assert!(again.release(&attachment("nobody")).unwrap().is_empty());
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_new_boot_and_a_half_written_lease_void_it() {
        let dir = scratch("boot");
        let cidr: Ipv4Network = "10.42.0.0/24".parse().unwrap();
        let mut ipam = Ipam::open(&dir, "one").unwrap();
        ipam.allocate(cidr, &attachment("a")).unwrap();
        fs::write(dir.join("10.42.0.9"), "").unwrap();
        assert_eq!(Ipam::open(&dir, "one").unwrap().len(), 1);
        assert!(Ipam::open(&dir, "two").unwrap().is_empty());
        fs::remove_dir_all(dir).unwrap();
    }
}
