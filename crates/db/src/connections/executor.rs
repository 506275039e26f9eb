//! Runs single statements on the pool, as sqlx's own pool does, and decides after each whether its connection is
//! reused.

use futures::{
    FutureExt as _, StreamExt as _, TryStreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use sqlx::{
    Either, Execute, Executor, PgConnection, Postgres, Row as _, SqlStr,
    postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};

use super::{
    catch_panics::catch_panics,
    pool::{Connections, Disposal},
};

type Step = Either<PgQueryResult, PgRow>;

impl<'c> Executor<'c> for &'_ Connections {
    type Database = Postgres;

    /// The rows are collected first: the whole answer decides whether the connection is reused.
    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Step, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let pool = self.clone();
        let all = async move {
            let mut connected = pool.acquire().await?;
            // Applies if the caller drops the future from here on.
            connected.set_disposal(Disposal::Drained);
            let outcome = catch_panics(async {
                let connection: &mut PgConnection = &mut connected;
                let steps: Vec<Step> = connection.fetch_many(query).try_collect().await?;
                steps.iter().filter_map(|step| step.as_ref().right()).try_for_each(look_at)?;
                Ok(steps)
            })
            .await;
            connected.judge(&outcome);
            outcome
        };
        let steps = all.map(|outcome| match outcome {
            Ok(steps) => stream::iter(steps).map(Ok).left_stream(),
            Err(error) => stream::once(async { Err(error) }).right_stream(),
        });
        steps.flatten_stream().boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let pool = self.clone();
        async move {
            let mut connected = pool.acquire().await?;
            connected.set_disposal(Disposal::Drained);
            let outcome = catch_panics(async {
                let connection: &mut PgConnection = &mut connected;
                let row = connection.fetch_optional(query).await?;
                row.iter().try_for_each(look_at)?;
                Ok(row)
            })
            .await;
            connected.judge(&outcome);
            outcome
        }
        .boxed()
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        let pool = self.clone();
        async move {
            let mut connected = pool.acquire().await?;
            let outcome = catch_panics((&mut *connected).prepare_with(sql, parameters)).await;
            connected.judge(&outcome);
            outcome
        }
        .boxed()
    }
}

/// Accesses each value, because a malformed one panics only when it is accessed.
fn look_at(row: &PgRow) -> Result<(), sqlx::Error> {
    (0..row.len()).try_for_each(|column| row.try_get_raw(column).map(drop))
}
