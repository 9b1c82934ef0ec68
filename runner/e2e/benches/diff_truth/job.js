// A job with a few functions of its own. ROUNDS is what the planted change
// changes: how often a record's text is hashed.
'use strict';
const ROUNDS = 150;

function countPrimes(limit) {
  let count = 0;
  for (let i = 3; i < limit; i += 2) {
    let prime = true;
    for (let j = 3; j * j <= i; j += 2) {
      if (i % j === 0) { prime = false; break; }
    }
    if (prime) count++;
  }
  return count;
}

function parseRecord(row) {
  let hash = 2166136261;
  for (let round = 0; round < ROUNDS; round++) {
    for (let i = 0; i < row.length; i++) {
      hash ^= row.charCodeAt(i);
      hash = Math.imul(hash, 16777619);
    }
  }
  return hash >>> 0;
}

function makeRows(count) {
  const rows = [];
  for (let i = 0; i < count; i++) {
    rows.push(`row ${i * 7919 % count};${'x'.repeat(i % 40)};${i / 3}`);
  }
  return rows;
}

function sortRows(rows) {
  const keys = new Map(rows.map((row) => [row, parseRecord(row)]));
  return rows.sort((a, b) => keys.get(a) - keys.get(b));
}

function fib(n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }

let sum = 0;
for (let turn = 0; turn < 3; turn++) {
  sum += countPrimes(70000);
  sum += sortRows(makeRows(9000)).length;
  sum += fib(22);
}
console.log(sum);
