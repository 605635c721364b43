//! Result tables to figures.
