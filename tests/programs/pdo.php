<?php
// PHP's PDO behind PHP's own web server, one process for all requests.
//
//     SETUP=per-request    a connection for each request
//     SETUP=persistent     PDO::ATTR_PERSISTENT
declare(strict_types=1);

const COUNT_AND_NEWEST = 'SELECT count(*), (SELECT mark FROM entry ORDER BY id DESC LIMIT 1) FROM entry';

header('Content-Type: application/json');
try {
    $options = [PDO::ATTR_PERSISTENT => getenv('SETUP') === 'persistent', PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION];
    $db = new PDO('sqlite:' . getenv('DATABASE'), null, null, $options);
    [, $word, $mark] = explode('/', $_SERVER['REQUEST_URI']) + [2 => ''];
    if ($word === 'write') {
        $db->prepare('INSERT INTO entry (mark) VALUES (?)')->execute([$mark]);
        $answer = null;
    } else {
        $answer = $db->query(COUNT_AND_NEWEST)->fetch(PDO::FETCH_NUM);
    }
    echo json_encode(['ok' => $answer]);
} catch (PDOException $error) {
    http_response_code(500);
    echo json_encode(['error' => $error->getMessage()]);
}
