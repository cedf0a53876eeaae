// better-sqlite3, one connection for the life of the process.
//
//     better_sqlite3.js DATABASE
'use strict';
const Database = require('better-sqlite3');
const { COUNT_AND_NEWEST, serve } = require('./dialogue.js');

const path = process.argv[2];
let db = new Database(path);

serve({
  write: (mark) => db.prepare('INSERT INTO entry (mark) VALUES (?)').run(mark),
  read: () => Object.values(db.prepare(COUNT_AND_NEWEST).get()),
  renew: () => {
    db.close();
    db = new Database(path);
  },
});
