//! The command line from outside: what it takes, and what it does with a node's answers.

mod fake;
mod operator;
mod parsing;
