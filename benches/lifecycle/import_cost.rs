//! The cost of importing another program's table, relative to the minimum: one INSERT … SELECT of all rows.

use std::{env, time::Duration};

use anyhow::{Context as _, bail};

use tokio::{process::Command, time::Instant};

use crate::common::{
    database::{BenchDatabase, DatabaseServer},
    process,
    report::at_most,
    stores::Stores,
};

/// Rows of the essay's table; `L5_ROWS` sets another number, for a smaller machine.
const ROWS: u32 = 5_000_000;
/// Makes the table: keys in random physical order, one copy in forty missing at each target.
const TABLE: &str =
    "CREATE TABLE public.object_copies (object_key text, b2 bigint, wasabi bigint, scw bigint, lock bigint);
    INSERT INTO public.object_copies
    SELECT md5(i::text), t, CASE WHEN i % 41 > 0 THEN t END, CASE WHEN i % 37 > 0 THEN t END
      FROM generate_series(1, {rows}) i, LATERAL (SELECT 1704067200000000 + 1000::bigint * i) AS v(t);
    ALTER TABLE public.object_copies ADD PRIMARY KEY (object_key)";
/// Makes the same rows as the command, in one statement and one transaction.
const BARE: &str =
    "INSERT INTO copyhold.object_copies (object_key, created_at, b2, due_b2, wasabi, due_wasabi, scw, due_scw)
    SELECT object_key, b2, b2, b2, wasabi, b2, scw, b2 FROM public.object_copies";
const OURS: &str =
    "SELECT object_key, created_at, b2, due_b2, wasabi, due_wasabi, scw, due_scw FROM copyhold.object_copies";
const THEIRS: &str = "SELECT object_key COLLATE \"C\", b2, b2, b2, wasabi, b2, scw, b2 FROM public.object_copies";

pub(super) async fn play(stores: &Stores) -> anyhow::Result<()> {
    let rows = env::var("L5_ROWS").map_or(Ok(ROWS), |rows| rows.parse()).context("L5_ROWS")?;
    let grounds = DatabaseServer::begin().await?;
    let ground = grounds.make("l5").await?;
    let (folder, config) = ground.configured(stores)?;
    copyhold_db::schema::migrate(&config).await?;
    ground.execute(TABLE.replace("{rows}", &rows.to_string())).await?;
    let (mut bare, mut ours) = (Duration::MAX, Duration::MAX);
    // In turns, so that other load of the machine affects both; the better of two runs counts.
    for _ in 0..2 {
        clear(&ground).await?;
        let begun = Instant::now();
        ground.execute(BARE).await?;
        bare = bare.min(begun.elapsed());

        clear(&ground).await?;
        let begun = Instant::now();
        let config = folder.path().join("copyhold.toml");
        let mut command = Command::new(process::program());
        command.arg("--config").arg(config).args(["import", "--table", "public.object_copies", "--anew"]);
        let output = command.kill_on_drop(true).output().await?;
        ours = ours.min(begun.elapsed());
        if !output.status.success() {
            bail!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        }
    }
    let per_second = |took: Duration| f64::from(rows) / took.as_secs_f64();
    println!(
        "{rows} rows: one bare INSERT … SELECT {:.0} rows/s, the command {:.0} rows/s",
        per_second(bare),
        per_second(ours)
    );
    let differ: i64 = {
        let more = |one: &str, other: &str| format!("(SELECT count(*) FROM (({one}) EXCEPT ALL ({other})) AS more)");
        let sql = format!("SELECT {} + {}", more(OURS, THEIRS), more(THEIRS, OURS));
        sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&ground.pool).await?
    };
    at_most("L5", "rows-that-differ", differ, 0);
    at_most("L5", "times-the-bare-insert", ours.as_secs_f64() / bare.as_secs_f64(), 2.0);
    grounds.clear(ground).await?;
    grounds.end().await
}

/// Empties Copyhold's table, and has earlier writes on disk before the next run.
async fn clear(ground: &BenchDatabase) -> anyhow::Result<()> {
    ground.execute("TRUNCATE copyhold.object_copies").await?;
    ground.execute("VACUUM ANALYZE public.object_copies").await?;
    ground.execute("CHECKPOINT").await
}
