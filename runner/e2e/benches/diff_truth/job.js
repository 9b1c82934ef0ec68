// A job with a few functions of its own. ROUNDS is what the planted change
// changes: how often a record's text is hashed.
'use strict';
const ROUNDS = 12;

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

// So long that it is not inlined, and keeps its name.
function parseRecord(row) {
  let hash = 2166136261;
  for (let round = 0; round < ROUNDS; round++) {
    for (let i = 0; i < row.length; i++) {
      const c = row.charCodeAt(i);
      hash = Math.imul(hash ^ (c + 0), 16777619);
      hash = Math.imul(hash ^ (c + 1), 16777619);
      hash = Math.imul(hash ^ (c + 2), 16777619);
      hash = Math.imul(hash ^ (c + 3), 16777619);
      hash = Math.imul(hash ^ (c + 4), 16777619);
      hash = Math.imul(hash ^ (c + 5), 16777619);
      hash = Math.imul(hash ^ (c + 6), 16777619);
      hash = Math.imul(hash ^ (c + 7), 16777619);
      hash = Math.imul(hash ^ (c + 8), 16777619);
      hash = Math.imul(hash ^ (c + 9), 16777619);
      hash = Math.imul(hash ^ (c + 10), 16777619);
      hash = Math.imul(hash ^ (c + 11), 16777619);
      hash = Math.imul(hash ^ (c + 12), 16777619);
      hash = Math.imul(hash ^ (c + 13), 16777619);
      hash = Math.imul(hash ^ (c + 14), 16777619);
      hash = Math.imul(hash ^ (c + 15), 16777619);
      hash = Math.imul(hash ^ (c + 16), 16777619);
      hash = Math.imul(hash ^ (c + 17), 16777619);
      hash = Math.imul(hash ^ (c + 18), 16777619);
      hash = Math.imul(hash ^ (c + 19), 16777619);
      hash = Math.imul(hash ^ (c + 20), 16777619);
      hash = Math.imul(hash ^ (c + 21), 16777619);
      hash = Math.imul(hash ^ (c + 22), 16777619);
      hash = Math.imul(hash ^ (c + 23), 16777619);
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
