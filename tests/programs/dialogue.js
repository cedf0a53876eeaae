// An application's end of the dialogue on stdin and stdout (README.md here).
'use strict';
const readline = require('node:readline');

/** What `read` answers with: how many rows, and the newest. */
exports.COUNT_AND_NEWEST =
  'SELECT count(*) AS count, (SELECT mark FROM entry ORDER BY id DESC LIMIT 1) AS newest FROM entry';

/** Answer until stdin ends. Like a request's handler, it tells of an error and goes on. */
exports.serve = function ({ write, read, renew }) {
  readline.createInterface({ input: process.stdin }).on('line', (line) => {
    const [word, mark] = line.split(' ');
    let answer = { ok: null };
    try {
      if (word === 'write') write(mark);
      else if (word === 'read') answer = { ok: read() };
      else renew();
    } catch (error) {
      answer = { error: `${error.name}: ${error.message}` };
    }
    process.stdout.write(JSON.stringify(answer) + '\n');
  });
};
