// sql.js: SQLite in WebAssembly, whose databases are in memory. The file is read as a whole before each
// change and written as a whole after it, without a lock.
//
//     sql_js.js DATABASE rename      a new file takes the database's name
//     sql_js.js DATABASE overwrite   the file is emptied and written anew
'use strict';
const fs = require('node:fs');
const initSqlJs = require('sql.js');
const { COUNT_AND_NEWEST, serve } = require('./dialogue.js');

const [path, way] = process.argv.slice(2);

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
        const image = db.export();
        fs.writeFileSync(way === 'rename' ? path + '.new' : path, image);
        if (way === 'rename') fs.renameSync(path + '.new', path);
      }),
    read: () => request((db) => db.exec(COUNT_AND_NEWEST)[0].values[0]),
    renew: () => {},
  });
});
