//! A pool with a maximum number of connections, each lent to one user at a time.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use sqlx::{Connection as _, PgConnection, PgPool, postgres::PgDatabaseError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    catch_panics::catch_panics,
    cause::ConnectCause,
    error::{READ_ONLY, ReadOnlyServer},
    target::{Access, Target},
};

/// How long a user waits for a connection.
const ACQUIRE: Duration = Duration::from_secs(5);
/// After this time a connection is replaced, so that changes of DNS or of a load balancer take effect.
const LIFETIME: Duration = Duration::from_mins(5);
/// How long the answer to an abandoned statement may take.
const DRAIN: Duration = Duration::from_secs(5);
/// How long a command waits for a server that is starting or full: sessions end in moments.
const BRIEFLY: Duration = Duration::from_millis(500);
/// How long a connection that was idle may take to answer a ping.
const LIVES_WITHIN: Duration = Duration::from_millis(2500);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A pool of connections to one database.
#[derive(Clone)]
pub struct Connections(pub(super) Arc<PoolState>);

pub(super) struct PoolState {
    target: Target,
    access: Access,
    most: u32,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<PooledConnection>>,
    /// How many are lent.
    lent: AtomicUsize,
}

struct PooledConnection {
    connection: PgConnection,
    born: Instant,
    era: u64,
}

/// A connection that is lent to a user.
pub struct LentConnection {
    live: Option<PooledConnection>,
    home: Arc<PoolState>,
    permit: Option<OwnedSemaphorePermit>,
    fate: Disposal,
}

/// What happens to a connection after its use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disposal {
    /// Reused: no statement is running on it.
    Reused,
    /// Reused as soon as the answer to its last, abandoned statement has been read.
    Drained,
    /// Closed.
    Closed,
}

impl Connections {
    /// Prepares a pool; connections are made when they are first needed, so this works while PostgreSQL is unavailable.
    #[must_use]
    pub fn new(target: Target, access: Access, most: u32) -> Self {
        let permits = Arc::new(Semaphore::new(most as usize));
        Self(Arc::new(PoolState { target, access, most, permits, idle: Mutex::default(), lent: AtomicUsize::new(0) }))
    }

    /// Lends a connection to a suitable server. It is closed when it is dropped, unless it is returned.
    pub async fn acquire(&self) -> Result<LentConnection, sqlx::Error> {
        let deadline = Instant::now() + ACQUIRE;
        let permits = Arc::clone(&self.0.permits);
        let permit = match tokio::time::timeout(ACQUIRE, permits.acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_closed)) => return Err(sqlx::Error::PoolClosed),
            // The users that hold the permits cannot connect: their reason is the reason here as well.
            Err(_) => return Err(self.0.target.outage.now().map_or(sqlx::Error::PoolTimedOut, |f| f.error.into())),
        };
        while let Some(mut live) = self.0.pop() {
            match tokio::time::timeout(LIVES_WITHIN, catch_panics(live.connection.ping())).await {
                Ok(Ok(())) => return Ok(self.lend(live, permit)),
                Ok(Err(_broken)) => {}
                // The other idle connections lead to the same server, and would not answer either.
                Err(_silent) => self.0.idle().clear(),
            }
        }
        // A large future, and rarely needed.
        Box::pin(self.0.connect(deadline)).await.map(|live| self.lend(live, permit))
    }

    fn lend(&self, live: PooledConnection, permit: OwnedSemaphorePermit) -> LentConnection {
        self.0.lent.fetch_add(1, Ordering::Relaxed);
        LentConnection { live: Some(live), home: Arc::clone(&self.0), permit: Some(permit), fate: Disposal::Closed }
    }

    /// Where its connections lead.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.0.target
    }

    /// The read-only server, if the last connection was made to one.
    #[must_use]
    pub fn read_only(&self) -> Option<ReadOnlyServer> {
        self.0.target.read_only()
    }

    /// Ends all connections, as soon as they are not in use.
    pub async fn close(&self) {
        let all = Arc::clone(&self.0.permits).acquire_many_owned(self.0.most).await;
        self.0.permits.close();
        drop(all);
        let idle = std::mem::take(&mut *self.0.idle());
        // A failed close ends the connection all the same.
        let _ = futures::future::join_all(idle.into_iter().map(|live| live.connection.close())).await;
    }
}

/// The same servers, reached in the same way; for callers with a pool of their own.
impl From<PgPool> for Connections {
    fn from(pool: PgPool) -> Self {
        let options = pool.connect_options().as_ref().clone();
        Self::new(Target::fixed(options), Access::Write, pool.options().get_max_connections())
    }
}

impl PoolState {
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<PooledConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an idle connection that may be reused; closes the others.
    fn pop(&self) -> Option<PooledConnection> {
        let (era, mut idle) = (self.target.era.now(), self.idle());
        let is_old = |live: &mut PooledConnection| live.era != era || live.born.elapsed() > LIFETIME;
        let old: Vec<_> = idle.extract_if(.., is_old).collect();
        let live = idle.pop();
        drop(idle);
        for live in old {
            tokio::spawn(live.connection.close());
        }
        live
    }

    /// Makes a connection. A daemon tries again until `deadline` while PostgreSQL is starting or full; the outage is
    /// recorded meanwhile. A command fails at once.
    async fn connect(&self, deadline: Instant) -> Result<PooledConnection, sqlx::Error> {
        let begun = Instant::now();
        let mut pause = FIRST_PAUSE;
        let mut login_refused = false;
        loop {
            let era = self.target.era.now();
            let error = match self.target.connect(self.access, deadline).await {
                Ok(connection) => return Ok(PooledConnection { connection, born: Instant::now(), era }),
                Err(error) => error,
            };
            let patient = self.access == Access::Write;
            let until = match ConnectCause::of(&error) {
                // A lent connection may be returned.
                Some(ConnectCause::TooManyOfRole | ConnectCause::TooMany)
                    if patient || self.lent.load(Ordering::Relaxed) > 0 =>
                {
                    deadline
                }
                Some(ConnectCause::TooManyOfRole | ConnectCause::TooMany | ConnectCause::Starting) if !patient => {
                    deadline.min(begun + BRIEFLY)
                }
                Some(ConnectCause::Starting | ConnectCause::Refused) if patient => deadline,
                // Secrets are read for each attempt: the first may have come just before they were rotated.
                Some(ConnectCause::Password | ConnectCause::Login) if !login_refused => {
                    login_refused = true;
                    deadline
                }
                _ => return Err(error),
            };
            if Instant::now() + pause >= until {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            if let Some(live) = self.pop() {
                return Ok(live);
            }
        }
    }
}

impl LentConnection {
    /// Returns it for reuse: no statement is running, and no transaction is open.
    pub fn give_back(mut self) {
        self.fate = Disposal::Reused;
    }

    pub(super) fn set_disposal(&mut self, fate: Disposal) {
        self.fate = fate;
    }

    /// Decides by the outcome of a statement whether it is reused.
    pub(super) fn judge<T>(&mut self, outcome: &Result<T, sqlx::Error>) {
        let Err(error) = outcome else {
            self.fate = Disposal::Reused;
            return;
        };
        self.fate = match error {
            sqlx::Error::Database(refused) => {
                let refused = refused.try_downcast_ref::<PgDatabaseError>();
                // Cannot fail: it came from PostgreSQL.
                let is_read_only = refused.is_some_and(|refused| refused.code() == READ_ONLY);
                if is_read_only && let Some(live) = &self.live {
                    self.home.target.era.end(live.era);
                }
                let goes_on = refused.is_some_and(|refused| refused.severity() == sqlx::postgres::PgSeverity::Error);
                if goes_on && !is_read_only { Disposal::Reused } else { Disposal::Closed }
            }
            // The answer was read completely.
            sqlx::Error::RowNotFound => Disposal::Reused,
            // The connection, or the protocol on it, failed.
            _ => Disposal::Closed,
        };
    }
}

impl Deref for LentConnection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        // Cannot fail: it is taken in `drop` alone.
        &self.live.as_ref().expect("a connection in use").connection
    }
}

impl DerefMut for LentConnection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        // Cannot fail: it is taken in `drop` alone.
        &mut self.live.as_mut().expect("a connection in use").connection
    }
}

impl Drop for LentConnection {
    fn drop(&mut self) {
        let Some(mut live) = self.live.take() else { return };
        self.home.lent.fetch_sub(1, Ordering::Relaxed);
        match self.fate {
            Disposal::Reused => self.home.idle().push(live),
            Disposal::Closed => {}
            Disposal::Drained => {
                let (home, permit) = (Arc::clone(&self.home), self.permit.take());
                // Without a runtime the process is ending.
                let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
                runtime.spawn(async move {
                    if let Ok(Ok(())) = tokio::time::timeout(DRAIN, catch_panics(live.connection.ping())).await {
                        home.idle().push(live);
                    }
                    drop(permit);
                });
            }
        }
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections")
            .field("most", &self.0.most)
            .field("access", &self.0.access)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for LentConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connected").field("fate", &self.fate).finish_non_exhaustive()
    }
}
