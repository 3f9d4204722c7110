//! Where blobs are kept: a URL, or a table with the URL and what goes with it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use url::Url;

use super::read_secret;
use crate::storage::Location;

/// Sizes of a part that every provider takes, in MiB.
const PART_MIB: std::ops::RangeInclusive<u64> = 5..=1024;
const DEFAULT_PART_MIB: u64 = 16;
const DEFAULT_LIFETIME_S: u64 = 300;

/// Where blobs are kept, and who is sent there.
#[derive(Clone, Debug)]
pub struct StorageConfig {
    /// Where.
    pub location: Location,
    /// Who reads from the object store itself.
    pub redirect: Redirect,
}

/// Callers that get a URL of the object store instead of a blob's bytes.
#[derive(Clone, Debug, Default)]
pub struct Redirect {
    networks: Vec<IpNet>,
    /// How long such a URL is good for.
    pub lifetime: Duration,
}

impl Redirect {
    /// Whether a caller at `address` is sent to the object store.
    pub fn includes(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(&address))
    }
}

/// The key `storage` of the file.
#[derive(Debug, Default)]
pub(super) struct StorageFile(Table);

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Table {
    url: Option<Url>,
    part_mib: Option<u64>,
    options: BTreeMap<String, String>,
    option_files: BTreeMap<String, PathBuf>,
    redirect: RedirectFile,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RedirectFile {
    enabled: bool,
    cidrs: Vec<IpNet>,
    lifetime_s: Option<u64>,
}

// By hand: of an untagged enum nobody learns which key of the table is wrong.
impl<'de> Deserialize<'de> for StorageFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct UrlOrTable;
        impl<'de> Visitor<'de> for UrlOrTable {
            type Value = StorageFile;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a URL or a table")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<StorageFile, E> {
                let url = Some(text.parse().map_err(E::custom)?);
                Ok(StorageFile(Table {
                    url,
                    ..Table::default()
                }))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<StorageFile, A::Error> {
                Table::deserialize(MapAccessDeserializer::new(map)).map(StorageFile)
            }
        }
        deserializer.deserialize_any(UrlOrTable)
    }
}

impl StorageFile {
    /// The file under the URL of a flag and over the variables that the URL's provider documents.
    pub(super) fn check(
        self,
        url: Option<Url>,
        data: &Path,
        environment: impl Iterator<Item = (OsString, OsString)>,
        wrong: &mut Vec<String>,
    ) -> StorageConfig {
        let table = self.0;
        let part_mib = table.part_mib.unwrap_or(DEFAULT_PART_MIB);
        if !PART_MIB.contains(&part_mib) {
            wrong.push(format!(
                "storage.part_mib is {part_mib}; it must be from {} to {}",
                PART_MIB.start(),
                PART_MIB.end()
            ));
        }
        let mut options = table.options;
        for (key, path) in table.option_files {
            match read_secret(&path) {
                Ok(secret) => {
                    options.insert(key, secret);
                }
                Err(error) => wrong.push(format!("storage.option_files.{key}: {error}")),
            }
        }
        let location = match url.or(table.url) {
            None => Location::directory(data.join("storage")),
            Some(url) => {
                let text = |(name, value): (OsString, OsString)| {
                    Some((name.into_string().ok()?, value.into_string().ok()?))
                };
                let variables = environment.filter_map(text);
                for (key, value) in Location::options_of_environment(&url, variables) {
                    options.insert(key, value);
                }
                match Location::parse(&url, options, part_mib << 20) {
                    Ok(location) => location,
                    Err(errors) => {
                        wrong.extend(errors);
                        Location::directory(PathBuf::new())
                    }
                }
            }
        };
        StorageConfig {
            location,
            redirect: table.redirect.check(wrong),
        }
    }
}

impl RedirectFile {
    fn check(self, wrong: &mut Vec<String>) -> Redirect {
        if self.enabled && self.cidrs.is_empty() {
            wrong.push(
                "storage.redirect.cidrs is empty; name the networks whose clients reach the object store, \
                 0.0.0.0/0 and ::/0 for all"
                    .to_owned(),
            );
        }
        let lifetime_s = self.lifetime_s.unwrap_or(DEFAULT_LIFETIME_S);
        if !(1..=604_800).contains(&lifetime_s) {
            wrong.push(format!(
                "storage.redirect.lifetime_s is {lifetime_s}; it must be from 1 to 604800"
            ));
        }
        Redirect {
            networks: if self.enabled { self.cidrs } else { Vec::new() },
            lifetime: Duration::from_secs(lifetime_s),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(
        text: &str,
        flag: Option<&str>,
        environment: &[(&str, &str)],
    ) -> Result<StorageConfig, Vec<String>> {
        #[derive(Deserialize)]
        struct File {
            #[serde(default)]
            storage: StorageFile,
        }
        let file: File = toml::from_str(text).map_err(|error| vec![error.to_string()])?;
        let mut wrong = Vec::new();
        let variables = environment.iter().map(|(n, v)| (n.into(), v.into()));
        let flag = flag.map(|url| url.parse().unwrap());
        let config = file
            .storage
            .check(flag, Path::new("/data"), variables, &mut wrong);
        if wrong.is_empty() { Ok(config) } else { Err(wrong) }
    }

    #[test]
    fn a_url_or_a_table_names_the_storage() {
        let default = parse("", None, &[]).unwrap();
        assert_eq!(default.location, Location::directory("/data/storage".into()));
        let directory = parse("storage = \"file:///blobs\"", None, &[]).unwrap();
        let table = parse("[storage]\nurl = \"file:///blobs\"", None, &[]).unwrap();
        assert_eq!(directory.location, table.location);
        let flag = parse("storage = \"file:///other\"", Some("file:///blobs"), &[]).unwrap();
        assert_eq!(flag.location, table.location);
        for url in ["s3://b/a/b", "gs://b", "az://c/x", "memory:"] {
            parse("", Some(url), &[]).unwrap();
        }
        for url in ["s3:b", "ftp://b", "file://host/x", "az:///x"] {
            assert!(parse("", Some(url), &[]).is_err(), "{url}");
        }
    }

    #[test]
    fn variables_win_over_the_file_and_secrets_are_not_shown() {
        let text = "[storage]\nurl = \"s3://b\"\n[storage.options]\naws_region = \"one\"";
        let variables = [
            ("AWS_REGION", "two"),
            ("AWS_SECRET_ACCESS_KEY", "hush"),
            ("AWS_PAGER", "less"),
        ];
        let config = parse(text, None, &variables).unwrap();
        let same = "[storage]\nurl = \"s3://b\"\n[storage.options]\naws_region = \"two\"\n\
                    aws_secret_access_key = \"hush\"";
        assert_eq!(config.location, parse(same, None, &[]).unwrap().location);
        assert!(!format!("{config:?}").contains("hush"));
        // What is meant for another provider is not looked at.
        let directory = parse("", Some("file:///x"), &variables).unwrap();
        assert_eq!(
            directory.location,
            parse("", Some("file:///x"), &[]).unwrap().location
        );
    }

    #[test]
    fn secrets_come_from_files_that_others_cannot_read() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        std::fs::write(&path, "hush\n").unwrap();
        let text = format!(
            "[storage]\nurl = \"s3://b\"\n[storage.option_files]\naws_secret_access_key = \"{}\"",
            path.display()
        );
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        assert!(parse(&text, None, &[]).unwrap_err()[0].contains("chmod 600"));
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        let inline = "[storage]\nurl = \"s3://b\"\n[storage.options]\naws_secret_access_key = \"hush\"";
        assert_eq!(
            parse(&text, None, &[]).unwrap().location,
            parse(inline, None, &[]).unwrap().location
        );
    }

    #[test]
    fn all_mistakes_are_told_by_their_keys() {
        let text = "[storage]\nurl = \"s3://b\"\npart_mib = 4\n[storage.options]\naws_colour = \"red\"\n\
                    [storage.redirect]\nenabled = true\nlifetime_s = 0";
        let wrong = parse(text, None, &[]).unwrap_err();
        for key in [
            "storage.part_mib",
            "storage.options.aws_colour",
            "storage.redirect.cidrs",
            "storage.redirect.lifetime_s",
        ] {
            assert!(wrong.iter().any(|text| text.contains(key)), "{key} in {wrong:?}");
        }
        let unknown = parse("[storage]\ncolour = 1", None, &[]).unwrap_err();
        assert!(unknown[0].contains("colour"), "{unknown:?}");
    }

    #[test]
    fn redirects_are_off_unless_asked_for_and_go_by_network() {
        let here: IpAddr = "10.1.2.3".parse().unwrap();
        let cidrs = "[storage.redirect]\ncidrs = [\"10.0.0.0/8\"]\n";
        assert!(!parse(cidrs, None, &[]).unwrap().redirect.includes(here));
        let on = parse(&format!("{cidrs}enabled = true"), None, &[])
            .unwrap()
            .redirect;
        assert!(on.includes(here) && on.includes("::ffff:10.1.2.3".parse().unwrap()));
        assert!(!on.includes("11.0.0.1".parse().unwrap()));
    }
}
