//! LISTEN → wake. A notice is a hint, and a connection can be dead and say nothing: so every doubt wakes too, and
//! whoever is woken looks for work in any case.

use std::time::Duration;

use sqlx::{
    Executor as _, PgPool,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{domain::SchemaName, metrics, queue::Notice, wake::Waker};

/// How often an idle connection must prove that it is alive, and how long it has for that.
const PROBE_EVERY: Duration = Duration::from_secs(10);
const PROBE_WITHIN: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Holds one direct connection and passes its notices on.
#[derive(Debug)]
pub struct Listener {
    /// To the database itself: LISTEN does not survive a transaction pooler.
    pub options: PgConnectOptions,
    pub schema: SchemaName,
    pub waker: Waker,
    /// For whoever looks at the table `replicas`.
    pub replicas: Waker,
}

impl Listener {
    /// Listens until `drain`, connecting again for as long as it takes.
    pub async fn run(self, drain: CancellationToken) {
        // A pool of its own with one connection: a listener takes its connection for good.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(PROBE_WITHIN)
            .connect_lazy_with(self.options.clone());
        let mut pause = FIRST_PAUSE;
        let mut said = false;
        loop {
            let ended = tokio::select! {
                () = drain.cancelled() => break,
                ended = self.listen(&pool, &mut pause) => ended,
            };
            metrics::listener_connected(false);
            // Whatever happened meanwhile was not heard.
            self.waker.wake();
            if !std::mem::replace(&mut said, pause > FIRST_PAUSE) {
                warn!(error = %ended, "Lost the connection that listens for new objects; until it is back the poll finds them");
            }
            tokio::select! {
                () = drain.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        pool.close().await;
    }

    /// One connection's life; returns why it ended.
    async fn listen(&self, pool: &PgPool, pause: &mut Duration) -> sqlx::Error {
        let mut listener = match self.connect(pool).await {
            Ok(listener) => listener,
            Err(error) => return error,
        };
        info!("Listening for new objects");
        metrics::listener_connected(true);
        *pause = FIRST_PAUSE;
        // What was registered before LISTEN took hold was not announced to us.
        self.waker.wake();
        loop {
            // `try_recv` and not `recv`, which hides that notices may have been lost.
            match tokio::time::timeout(PROBE_EVERY, listener.try_recv()).await {
                Ok(Ok(Some(notice))) => match Notice::parse(notice.payload()) {
                    Notice::Work => self.waker.wake(),
                    Notice::Replicas => self.replicas.wake(),
                },
                Ok(Ok(None)) => return sqlx::Error::WorkerCrashed,
                Ok(Err(error)) => return error,
                Err(_silence) => {
                    let probe = tokio::time::timeout(PROBE_WITHIN, listener.execute("SELECT 1 -- listener::probe"));
                    match probe.await {
                        Ok(Ok(_)) => {}
                        Ok(Err(error)) => return error,
                        Err(_) => return sqlx::Error::PoolTimedOut,
                    }
                }
            }
        }
    }

    async fn connect(&self, pool: &PgPool) -> Result<PgListener, sqlx::Error> {
        let mut listener = PgListener::connect_with(pool).await?;
        listener.eager_reconnect(false);
        listener.listen(&Notice::channel(&self.schema)).await?;
        Ok(listener)
    }
}
