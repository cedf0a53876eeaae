// sql.js: SQLite in WebAssembly, whose databases are in memory. The file is read as a whole before each
// change, and a new one takes its name after it, without a lock.
//
//     sql_js.js DATABASE
'use strict';
const fs = require('node:fs');
const initSqlJs = require('sql.js');
const { COUNT_AND_NEWEST, serve } = require('./dialogue.js');

const path = process.argv[2];

initSqlJs().then((SQL) => {
  const request = (work) => {
    const db = new SQL.Database(fs.readFileSync(path));
    try {
      return work(db);
    } finally {
      db.close();
    }
  };

  serve({
    write: (mark) =>
      request((db) => {
        db.run('INSERT INTO entry (mark) VALUES (?)', [mark]);
        fs.writeFileSync(path + '.new', db.export());
        fs.renameSync(path + '.new', path);
      }),
    read: () => request((db) => db.exec(COUNT_AND_NEWEST)[0].values[0]),
    renew: () => {},
  });
});
