//! Accounts of people and programs.

use super::{Db, DbError, now_ms, read, write};

/// An account.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct AccountRow {
    /// Unique name.
    pub name: String,
    /// argon2id in PHC form.
    pub password_hash: String,
    /// Whether it may do everything.
    pub is_admin: bool,
}

impl Db {
    /// The account called `name`.
    pub async fn account_get(&self, name: &str) -> Result<Option<AccountRow>, DbError> {
        const SQL: &str = "SELECT name, password_hash, is_admin FROM account WHERE name = $1";
        Ok(read!(self, |pool| sqlx::query_as(SQL)
            .bind(name)
            .fetch_optional(pool)
            .await?))
    }

    /// Whether there is any account.
    pub async fn account_exists(&self) -> Result<bool, DbError> {
        const SQL: &str = "SELECT COUNT(*) FROM account";
        let (count,): (i64,) = read!(self, |pool| sqlx::query_as(SQL).fetch_one(pool).await?);
        Ok(count > 0)
    }

    /// Creates an account, or gives an existing one a new password and rights.
    pub async fn account_put(&self, account: &AccountRow) -> Result<(), DbError> {
        const SQL: &str = "INSERT INTO account (name, password_hash, is_admin, created_at_ms) VALUES ($1, $2, $3, $4)
            ON CONFLICT (name) DO UPDATE SET password_hash = excluded.password_hash, is_admin = excluded.is_admin";
        write!(self, |tx| {
            sqlx::query(SQL)
                .bind(&account.name)
                .bind(&account.password_hash)
                .bind(account.is_admin)
                .bind(now_ms())
                .execute(&mut *tx)
                .await?;
        });
        Ok(())
    }
}
