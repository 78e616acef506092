// Package bridgetest tests the bridge with whole applications at work: they are adopted, worked, checked and removed while they write.
// IMAGETASKS_MATRIX=full runs all applications with 20,000 rows, as scripts/adopt-matrix.sh does; otherwise three run with 2,000 rows.
package bridgetest
