//! Copyhold and rclone, in turns, with the stores in memory and with Garage. Each turn has its own stores: neither
//! contestant finds the other's objects.

use std::fmt::Write as _;

use copyhold_sandbox::s3::synthetic;
use tempfile::TempDir;

use super::{
    baseline::{Cost, PART_BYTES},
    bucket_location::BucketLocation,
    copyhold_daemon::CopyholdDaemon,
    garage::{self, Garage},
    presigned::Presigner,
    raw_http::RawConnection,
    rclone,
};
use crate::common::{
    environment::{Disk, Environment},
    machine,
    report::{at_least, at_most},
    stores::Stores,
};

const TURNS: usize = 3;
/// Settings of rclone for large objects, beside its defaults.
const SETTINGS: [&[&str]; 4] = [
    &[],
    &["--s3-chunk-size", "16M", "--s3-upload-concurrency", "8"],
    &["--s3-chunk-size", "64M", "--s3-upload-concurrency", "4"],
    &["--s3-chunk-size", "16M", "--s3-upload-concurrency", "2", "--buffer-size", "64M"],
];

/// The objects to copy.
#[derive(Debug, Clone, Copy)]
struct Load {
    name: &'static str,
    objects: u32,
    bytes: u64,
}

impl Load {
    fn keys(self) -> Vec<String> {
        (1..=self.objects).map(|i| format!("object-{i}")).collect()
    }

    fn is_large(self) -> bool {
        self.bytes > PART_BYTES
    }

    #[expect(clippy::cast_precision_loss, reason = "megabytes")]
    fn describe(self, cost: Cost) -> String {
        let bytes = self.bytes as f64 * f64::from(self.objects);
        let (each, megabytes) = (f64::from(self.objects) / cost.seconds, bytes / cost.seconds / 1e6);
        format!("{:.2} s, {each:.0} objects/s, {megabytes:.0} MB/s, {:.2} s of CPU", cost.seconds, cost.cpu_seconds)
    }
}

/// Compares with the stores in memory.
pub(super) async fn in_memory() -> anyhow::Result<()> {
    if has_rclone().await {
        contest(Load { name: "10-kib", objects: 10_000, bytes: 10 << 10 }, "memory", 2.0).await?;
        contest(Load { name: "256-mib", objects: 4, bytes: 256 << 20 }, "memory", 1.5).await?;
    }
    Ok(())
}

/// Compares with three Garage servers.
pub(super) async fn on_garage() -> anyhow::Result<()> {
    let Some(version) = garage::version().await else {
        println!("-- C2 is not played on Garage, which is not installed");
        return Ok(());
    };
    println!("-- {version}");
    if has_rclone().await {
        contest(Load { name: "10-kib", objects: 2000, bytes: 10 << 10 }, "garage", 1.0).await?;
        contest(Load { name: "256-mib", objects: 4, bytes: 256 << 20 }, "garage", 1.0).await?;
    }
    Ok(())
}

async fn has_rclone() -> bool {
    let version = rclone::version().await;
    match &version {
        Some(version) => println!("-- {version}; {}", machine::load()),
        None => println!("-- C2 is not played: rclone is not installed"),
    }
    version.is_some()
}

async fn contest(load: Load, on: &str, rate: f64) -> anyhow::Result<()> {
    println!("- {} objects of {} on {on}", load.objects, load.name);
    let settings = if load.is_large() { &SETTINGS[..] } else { &SETTINGS[..1] };
    let mut theirs = vec![Vec::new(); settings.len()];
    let mut ours = Vec::new();
    for _ in 0..TURNS {
        for (settings, costs) in settings.iter().zip(&mut theirs) {
            let places = TurnLocations::begin(load, on).await?;
            let folder = TempDir::new()?;
            let before = places.cpu_seconds()?;
            let cost = rclone::copy(places.source(), places.targets(), settings, folder.path()).await?;
            println!("rclone {settings:?}: {}; stores {:.2} s", load.describe(cost), places.cpu_seconds()? - before);
            costs.push(cost);
            places.end().await?;
        }
        let places = TurnLocations::begin(load, on).await?;
        let stage = Environment::begin_as(Disk::Plain, |database| places.configuration(database)).await?;
        let mut daemon = CopyholdDaemon::on(stage).await?;
        let before = places.cpu_seconds()?;
        let spent = daemon.copy(&load.keys()).await?;
        println!(
            "ours: {}; PostgreSQL {:.2} s, stores {:.2} s",
            load.describe(spent.ours),
            spent.database_cpu_seconds,
            places.cpu_seconds()? - before
        );
        ours.push(spent.ours);
        daemon.end().await?;
        places.end().await?;
    }
    let ours = Cost::median(&ours);
    let theirs = theirs.iter().map(|costs| Cost::median(costs));
    // Cannot fail: there is at least one run.
    let theirs = theirs.min_by(|one, other| one.seconds.total_cmp(&other.seconds)).expect("a contestant");
    println!("ours {}; rclone at its best {}", load.describe(ours), load.describe(theirs));
    at_least("C2", &format!("{}-rate-by-rclone-on-{on}", load.name), theirs.seconds / ours.seconds, rate);
    at_most("C2", &format!("{}-cpu-by-rclone-on-{on}", load.name), ours.cpu_seconds / theirs.cpu_seconds, 0.5);
    Ok(())
}

/// The buckets of a turn, the source first.
struct TurnLocations {
    places: Vec<BucketLocation>,
    stores: Kind,
}

enum Kind {
    Memory(Box<Stores>),
    Garage(Vec<Garage>),
}

impl TurnLocations {
    async fn begin(load: Load, on: &str) -> anyhow::Result<Self> {
        if on == "memory" {
            let stores = Stores::elsewhere_numbered(load.objects, load.bytes).await?;
            let places = Stores::REPLICAS.map(|name| BucketLocation {
                name,
                endpoint: stores.endpoint.clone(),
                region: "us-east-1",
                bucket: Stores::bucket_of(name),
                access_key_id: stores.access_key_id.clone(),
                secret_access_key: stores.secret_access_key.clone(),
            });
            return Ok(Self { places: places.to_vec(), stores: Kind::Memory(Box::new(stores)) });
        }
        let mut all = Vec::new();
        for name in Stores::REPLICAS {
            all.push(Garage::start(name).await?);
        }
        fill(&all[0].place, load).await?;
        let places = all.iter().map(|garage| garage.place.clone()).collect();
        Ok(Self { places, stores: Kind::Garage(all) })
    }

    fn source(&self) -> &BucketLocation {
        &self.places[0]
    }

    fn targets(&self) -> &[BucketLocation] {
        &self.places[1..]
    }

    fn cpu_seconds(&self) -> anyhow::Result<f64> {
        match &self.stores {
            Kind::Memory(stores) => stores.cpu_seconds(),
            Kind::Garage(all) => all.iter().map(Garage::cpu_seconds).sum(),
        }
    }

    fn configuration(&self, database: &str) -> anyhow::Result<String> {
        let all = match &self.stores {
            Kind::Memory(stores) => return stores.configuration(database, ""),
            Kind::Garage(all) => all,
        };
        let mut text = format!("primary = \"b2\"\n[database]\nurl = \"{database}\"\n");
        for Garage { place, .. } in all {
            write!(
                text,
                "[replicas.{}]\nendpoint = \"{}\"\nregion = \"{}\"\nbucket = \"{}\"\npath_style = true\n\
                 provider = \"garage\"\naccess_key_id = \"{}\"\nsecret_access_key = \"{}\"\n",
                place.name, place.endpoint, place.region, place.bucket, place.access_key_id, place.secret_access_key
            )?;
        }
        write!(text, "[http]\nlisten = \"127.0.0.1:0\"\n[log]\nformat = \"text\"\n")?;
        Ok(text)
    }

    async fn end(self) -> anyhow::Result<()> {
        match self.stores {
            Kind::Memory(stores) => stores.end().await,
            Kind::Garage(all) => {
                for garage in all {
                    garage.end().await?;
                }
                Ok(())
            }
        }
    }
}

/// Uploads the objects to a source that cannot generate them.
async fn fill(source: &BucketLocation, load: Load) -> anyhow::Result<()> {
    let signer = Presigner::for_place(source)?;
    let mut wire = RawConnection::connect(signer.address).await?;
    for (i, key) in (1..).zip(load.keys()) {
        if !load.is_large() {
            let url = signer.put_to(&source.bucket, &key).await?;
            wire.put(&url, synthetic::bytes(i, 0..load.bytes).into(), None).await?;
            continue;
        }
        let upload = signer.begin_in(&source.bucket, &key, load.bytes / PART_BYTES).await?;
        let mut md5s = Vec::new();
        for (part, url) in (0..).zip(&upload.parts) {
            let bytes = synthetic::bytes(i, part * PART_BYTES..(part + 1) * PART_BYTES);
            md5s.push(<md5::Md5 as md5::Digest>::digest(&bytes).into());
            wire.put(url, bytes.into(), None).await?;
        }
        signer.complete(&upload, &md5s).await?;
    }
    Ok(())
}
