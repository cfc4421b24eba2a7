<?php
// tests/clients: the list (../README.md) by Debian's php-mongodb, which is the driver without the library: commands, bulks, queries.
use MongoDB\BSON;
use MongoDB\Driver\{BulkWrite, Command, Cursor, Manager, Query, ReadConcern, ReadPreference, WriteConcern, Session};
use MongoDB\Driver\Exception as X;

const DB = 'clients_php';
$manager = new Manager(getenv('VD_URI'), ['authMechanism' => 'SCRAM-SHA-256']);
$count = $failed = 0;

function check(string $name, callable $body): void {
    global $count, $failed;
    $count++;
    try {
        $skip = $body();
        echo "ok $count - $name" . (is_string($skip) ? " # SKIP $skip" : '') . "\n";
    } catch (Throwable $e) {
        $failed++;
        echo "not ok $count - $name\n# ", str_replace("\n", "\n# ", $e), "\n";
    }
}
function eq($got, $want): void {
    if ($got != $want) throw new Exception(json_encode($got) . ' instead of ' . json_encode($want));
}
function fails(?int $code, callable $body): Throwable {
    try {
        $body();
    } catch (X\Exception $e) {
        $got = $e instanceof X\BulkWriteException && $e->getWriteResult()->getWriteErrors() ? $e->getWriteResult()->getWriteErrors()[0]->getCode() : $e->getCode();
        if ($code !== null) eq($got, $code);
        return $e;
    }
    throw new Exception('an error was expected');
}
function rows(Cursor $c): array {
    $c->setTypeMap(['root' => 'array', 'document' => 'array', 'array' => 'array']);
    return $c->toArray();
}
function run(array $command, array $options = [], string $db = DB): array {
    global $manager;
    return rows($manager->executeCommand($db, new Command($command), $options));
}
function find($filter = [], array $options = [], array $more = [], string $c = 'things'): array {
    global $manager;
    return rows($manager->executeQuery(DB . ".$c", new Query($filter, $options), $more));
}
function write(callable $fill, array $options = [], array $more = [], string $c = 'things') {
    global $manager;
    $bulk = new BulkWrite($options);
    $fill($bulk);
    return $manager->executeBulkWrite(DB . ".$c", $bulk, $more);
}
function drop(string $c): void {
    try { run(['drop' => $c]); } catch (X\CommandException $e) { eq($e->getCode(), 26); }
}
function filled(int $n = 10): void {
    drop('things');
    write(function ($b) use ($n) {
        for ($i = 0; $i < $n; $i++) $b->insert(['_id' => $i, 'x' => $i % 3, 's' => str_repeat('aBc'[$i % 3], 2), 'tags' => [$i, $i + 1]]);
    });
}
function ids(array $rows): array { return array_column($rows, '_id'); }
function aggregate(array $pipeline, array $more = [], $on = 'things', array $options = []): array {
    return run(['aggregate' => $on, 'pipeline' => $pipeline, 'cursor' => $more['cursor'] ?? new stdClass] + $more, $options);
}
function modify(array $what): array { return run(['findAndModify' => 'things'] + $what)[0]; }

$list = [
'connect' => function () {
    run(['dropDatabase' => 1]);
    eq(run(['ping' => 1])[0]['ok'], 1);
    eq(run(['buildInfo' => 1])[0]['versionArray'][0], 7);
},
'wrong_password' => fn() => fails(11, fn() => (new Manager(getenv('VD_URI'), ['password' => 'wrong']))->executeCommand('admin', new Command(['ping' => 1]))),
'insert' => function () {
    drop('things');
    eq(write(fn($b) => $b->insert(['_id' => 1]))->getInsertedCount(), 1);
    eq(write(function ($b) { for ($i = 0; $i < 3; $i++) $b->insert([]); })->getInsertedCount(), 3);
},
'find' => function () {
    filled();
    eq(ids(find(['x' => 1], ['sort' => ['_id' => -1], 'skip' => 1, 'limit' => 1])), [4]);
    eq(find(['_id' => 3], ['projection' => ['_id' => 0, 'x' => 1]]), [['x' => 0]]);
    run(['createIndexes' => 'things', 'indexes' => [['key' => ['x' => 1], 'name' => 'x_1']]]);
    eq(count(find(['x' => 1], ['hint' => 'x_1'])), 3);
    eq(count(find(['s' => 'bb'], ['collation' => ['locale' => 'en', 'strength' => 2]])), 3);
    eq(count(find(['s' => new BSON\Regex('^A', 'i')])), 4);
    fails(2, fn() => find(['$nothing' => 1]));
    eq(ids(find([], ['min' => ['_id' => 8], 'max' => ['_id' => 9], 'hint' => ['_id' => 1]])), [8]);
},
'update' => function () {
    filled();
    $r = write(fn($b) => $b->update(['_id' => 1], ['$set' => ['y' => 1], '$inc' => ['x' => 5]]));
    eq([$r->getMatchedCount(), $r->getModifiedCount(), $r->getUpsertedCount()], [1, 1, 0]);
    eq(write(fn($b) => $b->update(['x' => ['$lt' => 3]], ['$set' => ['y' => 2]], ['multi' => true]))->getModifiedCount(), 9);
    eq(write(fn($b) => $b->update(['_id' => 77], ['$setOnInsert' => ['n' => 1]], ['upsert' => true]))->getUpsertedIds(), [0 => 77]);
    eq(write(fn($b) => $b->update(['_id' => 1], [['$set' => ['z' => ['$add' => ['$x', '$y']]]]]))->getModifiedCount(), 1);
    write(fn($b) => $b->update(['_id' => 2], ['$set' => ['tags.$[t]' => 0]], ['arrayFilters' => [['t' => ['$gt' => 2]]]]));
    eq(find(['_id' => 2])[0]['tags'], [2, 0]);
    fails(66, fn() => write(fn($b) => $b->update(['_id' => 1], ['$set' => ['_id' => 2]])));
},
'replace' => function () {
    filled();
    eq(write(fn($b) => $b->update(['_id' => 1], ['a' => 1]))->getModifiedCount(), 1);
    eq(find(['_id' => 1]), [['_id' => 1, 'a' => 1]]);
    eq(write(fn($b) => $b->update(['_id' => 100], ['a' => 1], ['upsert' => true]))->getUpsertedIds(), [100]);
},
'delete' => function () {
    filled();
    eq(write(fn($b) => $b->delete(['x' => 1], ['limit' => 1]))->getDeletedCount(), 1);
    eq(write(fn($b) => $b->delete(['x' => 1]))->getDeletedCount(), 2);
    eq(write(fn($b) => $b->delete(['s' => 'AA'], ['collation' => ['locale' => 'en', 'strength' => 2]]))->getDeletedCount(), 4);
},
'find_and_modify' => function () {
    filled();
    eq(modify(['query' => ['x' => 1], 'sort' => ['_id' => -1], 'update' => ['$inc' => ['x' => 10]]])['value']['_id'], 7);
    eq(modify(['query' => ['_id' => 7], 'update' => ['$inc' => ['x' => 1]], 'new' => true, 'fields' => ['x' => 1]])['value'], ['_id' => 7, 'x' => 12]);
    eq(modify(['query' => ['_id' => 50], 'update' => ['a' => 1], 'upsert' => true])['lastErrorObject'], ['n' => 1, 'updatedExisting' => false, 'upserted' => 50]);
    eq(modify(['query' => ['_id' => 50], 'remove' => true])['value'], ['_id' => 50, 'a' => 1]);
    eq(modify(['query' => ['_id' => 50], 'remove' => true])['value'], null);
},
'bulk' => function () {
    filled();
    $r = write(function ($b) {
        $b->insert(['_id' => 20]);
        $b->update(['_id' => 1], ['$set' => ['b' => 1]]);
        $b->update(['x' => 0], ['$set' => ['b' => 2]], ['multi' => true]);
        $b->update(['_id' => 30], ['r' => 1], ['upsert' => true]);
        $b->delete(['_id' => 2], ['limit' => 1]);
        $b->delete(['x' => 2]);
    });
    eq([$r->getInsertedCount(), $r->getMatchedCount(), $r->getModifiedCount(), $r->getDeletedCount(), $r->getUpsertedIds()], [1, 5, 5, 3, [3 => 30]]);
},
'bulk_errors' => function () {
    filled(2);
    $ops = function ($b) {
        foreach ([5, 1, 6, 1] as $id) $b->insert(['_id' => $id]);
        $b->update(['_id' => 0], ['$set' => ['k' => 1]]);
    };
    $errors = fn($e) => array_map(fn($w) => [$w->getIndex(), $w->getCode()], $e->getWriteResult()->getWriteErrors());
    eq($errors(fails(11000, fn() => write($ops))), [[1, 11000]]);
    write(fn($b) => $b->delete(['_id' => 5]));
    $e = fails(11000, fn() => write($ops, ['ordered' => false]));
    eq($errors($e), [[1, 11000], [3, 11000]]);
    eq($e->getWriteResult()->getModifiedCount(), 1);
},
'cursors' => function () {
    global $manager;
    filled(250);
    eq(ids(find([], ['batchSize' => 7, 'sort' => ['_id' => 1]])), range(0, 249));
    $c = $manager->executeQuery(DB . '.things', new Query([], ['batchSize' => 2]));
    $c->rewind();
    if ((string) $c->getId() === '0') throw new Exception('no cursor');
    unset($c);
    eq(count(find([], ['limit' => 5, 'singleBatch' => true])), 5);
    run(['create' => 'capped', 'capped' => true, 'size' => 4096]);
    write(fn($b) => $b->insert(['_id' => 1]), [], [], 'capped');
    $t = new IteratorIterator($manager->executeQuery(DB . '.capped', new Query([], ['tailable' => true, 'awaitData' => true, 'maxAwaitTimeMS' => 50])));
    $t->rewind();
    eq($t->current()->_id, 1);
    write(fn($b) => $b->insert(['_id' => 2]), [], [], 'capped');
    for ($t->next(); !$t->valid(); ) $t->next();
    eq($t->current()->_id, 2);
},
'indexes' => function () {
    filled();
    $make = fn($i) => run(['createIndexes' => 'things', 'indexes' => [$i]]);
    $make(['key' => ['x' => 1, 's' => -1], 'name' => 'both']);
    $make(['key' => ['a' => 1], 'name' => 'a_1', 'unique' => true, 'partialFilterExpression' => ['a' => ['$exists' => true]]]);
    $make(['key' => ['when' => 1], 'name' => 'when_1', 'expireAfterSeconds' => 3600]);
    eq(array_column(run(['listIndexes' => 'things']), 'name'), ['_id_', 'both', 'a_1', 'when_1']);
    write(fn($b) => $b->insert(['a' => 1]));
    fails(11000, fn() => write(fn($b) => $b->insert(['a' => 1])));
    fails(86, fn() => $make(['key' => ['x' => 1], 'name' => 'both']));
    run(['dropIndexes' => 'things', 'index' => 'both']);
    fails(27, fn() => run(['dropIndexes' => 'things', 'index' => 'both']));
    run(['dropIndexes' => 'things', 'index' => '*']);
    eq(count(run(['listIndexes' => 'things'])), 1);
},
'aggregation' => function () {
    filled();
    eq(aggregate([['$match' => ['_id' => ['$lt' => 9]]], ['$group' => ['_id' => '$x', 'n' => ['$sum' => 1]]], ['$sort' => ['_id' => 1]]]),
        [['_id' => 0, 'n' => 3], ['_id' => 1, 'n' => 3], ['_id' => 2, 'n' => 3]]);
    drop('other');
    write(function ($b) { for ($i = 0; $i < 3; $i++) $b->insert(['_id' => $i, 'name' => "$i"]); }, [], [], 'other');
    eq(count(aggregate([['$lookup' => ['from' => 'other', 'localField' => 'x', 'foreignField' => '_id', 'as' => 'o']], ['$unwind' => '$o'], ['$match' => ['o.name' => '1']]])), 3);
    eq(aggregate([['$facet' => ['a' => [['$count' => 'n']], 'b' => [['$limit' => 1], ['$project' => ['x' => 1]]]]]]), [['a' => [['n' => 10]], 'b' => [['_id' => 0, 'x' => 0]]]]);
    eq(count(aggregate([], ['cursor' => ['batchSize' => 3]])), 10);
    fails(40324, fn() => aggregate([['$nothing' => new stdClass]]));
},
'out' => function () {
    filled();
    eq(aggregate([['$match' => ['x' => 1]], ['$out' => 'copied']]), []);
    eq(count(find([], [], [], 'copied')), 3);
    aggregate([['$set' => ['m' => 1]], ['$merge' => ['into' => 'copied']]]);
    eq(count(find(['m' => 1], [], [], 'copied')), 10);
},
'distinct_count' => function () {
    filled();
    eq(run(['distinct' => 'things', 'key' => 'x', 'query' => ['_id' => ['$lt' => 5]]])[0]['values'], [0, 1, 2]);
    eq(run(['count' => 'things', 'query' => ['x' => 1]])[0]['n'], 3);
    eq(run(['count' => 'things', 'skip' => 2, 'limit' => 3])[0]['n'], 3);
},
'explain' => function () {
    filled();
    $p = run(['explain' => ['find' => 'things', 'filter' => ['_id' => 3]], 'verbosity' => 'executionStats'])[0];
    eq($p['executionStats']['nReturned'], 1);
},
'sessions' => function () {
    global $manager;
    filled();
    $s = $manager->startSession(['causalConsistency' => true]);
    write(fn($b) => $b->insert(['_id' => 99]), [], ['session' => $s]);
    eq(find(['_id' => 99], [], ['session' => $s]), [['_id' => 99]]);
    if (!$s->getOperationTime() || !$s->getClusterTime()) throw new Exception('no times');
    $s->endSession();
    $s = $manager->startSession(['snapshot' => true]);
    eq(count(find([], [], ['session' => $s])), 11);
    write(fn($b) => $b->insert(['_id' => 98]));
    eq(count(find([], [], ['session' => $s])), 11);
},
'transactions' => function () {
    global $manager;
    filled();
    $s = $manager->startSession();
    $s->startTransaction(['readConcern' => new ReadConcern('snapshot'), 'writeConcern' => new WriteConcern(WriteConcern::MAJORITY)]);
    write(fn($b) => $b->insert(['_id' => 50]), [], ['session' => $s]);
    write(fn($b) => $b->update(['_id' => 1], ['$set' => ['t' => 1]]), [], ['session' => $s]);
    eq(find(['_id' => 50]), []);
    $s->commitTransaction();
    $s->commitTransaction();
    eq(count(find(['$or' => [['_id' => 50], ['t' => 1]]])), 2);
    $s->startTransaction();
    write(fn($b) => $b->update(['_id' => 2], ['$set' => ['t' => 2]]), [], ['session' => $s]);
    $o = $manager->startSession();
    $o->startTransaction();
    $e = fails(112, fn() => write(fn($b) => $b->update(['_id' => 2], ['$set' => ['t' => 3]]), [], ['session' => $o]));
    eq($e->getPrevious() ? $e->getPrevious()->hasErrorLabel('TransientTransactionError') : $e->hasErrorLabel('TransientTransactionError'), true);
    $s->abortTransaction();
    eq(find(['t' => 2]), []);
},
'change_streams' => function () {
    global $manager;
    filled();
    $watch = fn($options, $on = 'things') => $manager->executeCommand(DB, new Command(['aggregate' => $on, 'pipeline' => [['$changeStream' => (object) $options]], 'cursor' => new stdClass, 'maxTimeMS' => 20000]));
    $next = function ($it) {
        while (!$it->valid()) $it->next();
        $e = $it->current();
        $it->next();
        return $e;
    };
    $it = new IteratorIterator($watch(['fullDocument' => 'updateLookup']));
    $it->rewind();
    write(fn($b) => $b->insert(['_id' => 40]));
    write(fn($b) => $b->update(['_id' => 40], ['$set' => ['a' => 1]]));
    write(fn($b) => $b->delete(['_id' => 40]));
    $first = $next($it);
    eq([$first->operationType, $first->fullDocument->_id], ['insert', 40]);
    $again = new IteratorIterator($watch(['resumeAfter' => $first->_id], 1));
    $again->rewind();
    eq($next($again)->updateDescription->updatedFields->a, 1);
    eq($next($again)->operationType, 'delete');
},
'gridfs' => fn() => 'the driver has none without its library',
'types' => function () {
    global $manager;
    drop('types');
    $values = ['double' => 1.5, 'string' => "zß水🍌\0x", 'object' => ['a' => (object) []], 'array' => [1, 'a', null], 'id' => new BSON\ObjectId,
        'yes' => true, 'null' => null, 'int' => 7, 'long' => 4611686018427387904, 'decimal' => new BSON\Decimal128('-1.50E+6000'), 'dnan' => new BSON\Decimal128('NaN'),
        'old' => new BSON\UTCDateTime(-2175000000123), 'ts' => new BSON\Timestamp(7, 4294967295), 'min' => new BSON\MinKey, 'max' => new BSON\MaxKey,
        're' => new BSON\Regex('a.*b/', 'imx'), 'code' => new BSON\Javascript('f()'), 'scoped' => new BSON\Javascript('f()', ['x' => 1])];
    foreach ([0, 1, 3, 4, 5, 128, 255] as $t) $values["bin$t"] = new BSON\Binary('0123456789abcdef', $t);
    // Types that nobody can make any more, but that old data has.
    $old = BSON\toPHP(BSON\fromJSON('{"undefined": {"$undefined": true}, "symbol": {"$symbol": "s"}, "pointer": {"$dbPointer": {"$ref": "a.b", "$id": {"$oid": "56e1fc72e0c917e9c4714161"}}}}'));
    $values += (array) $old;
    write(fn($b) => $b->insert(['_id' => 1] + $values), [], [], 'types');
    $got = $manager->executeQuery(DB . '.types', new Query([]))->toArray()[0];
    eq(BSON\fromPHP($got) === BSON\fromPHP((object) (['_id' => 1] + $values)), true);
    eq(count(find(['old' => ['$lt' => new BSON\UTCDateTime(0)], 'symbol' => ['$type' => 'symbol'], 'undefined' => ['$type' => 6], 'pointer' => ['$type' => 'dbPointer']], [], [], 'types')), 1);
},
'large' => function () {
    drop('large');
    write(fn($b) => $b->insert(['_id' => 1, 'b' => str_repeat('x', 15 << 20)]), [], [], 'large');
    eq(strlen(find([], [], [], 'large')[0]['b']), 15 << 20);
    write(function ($b) { for ($i = 0; $i < 6; $i++) $b->insert(['b' => str_repeat('y', 9 << 20)]); }, [], [], 'large');
    eq(array_sum(array_map(fn($d) => strlen($d['b']), find(['_id' => ['$ne' => 1]], [], [], 'large'))), 54 << 20);
},
'too_large' => function () {
    fails(null, fn() => write(fn($b) => $b->insert(['b' => str_repeat('x', (16 << 20) + 100)]), [], [], 'large'));
    fails(17419, fn() => write(fn($b) => $b->update(['_id' => 1], ['$set' => ['c' => str_repeat('x', 2 << 20)]]), [], [], 'large'));
},
'duplicate_key' => function () {
    filled();
    $e = fails(11000, fn() => write(fn($b) => $b->insert(['_id' => 1])));
    if (!str_contains($e->getMessage(), 'E11000 duplicate key error collection: clients_php.things index: _id_ dup key: { _id: 1 }')) throw $e;
},
'lists' => function () {
    filled();
    eq(in_array(DB, array_column(run(['listDatabases' => 1], [], 'admin')[0]['databases'], 'name')), true);
    run(['create' => 'view', 'viewOn' => 'things', 'pipeline' => [['$match' => ['x' => 1]]]]);
    eq(array_column(run(['listCollections' => 1, 'filter' => ['name' => 'view']]), 'type'), ['view']);
    eq(count(find([], [], [], 'view')), 3);
    fails(48, fn() => run(['create' => 'things', 'capped' => true, 'size' => 4096]));
},
'retry' => function () {
    filled();
    exec(getenv('VD_KILL'), $out, $rc);
    eq($rc, 0);
    for ($i = 100; $i < 120; $i++) write(fn($b) => $b->insert(['_id' => $i]));
    eq(count(find(['_id' => ['$gte' => 100]])), 20);
},
'unacknowledged' => function () {
    filled();
    $w0 = ['writeConcern' => new WriteConcern(0)];
    eq(write(fn($b) => $b->insert(['_id' => 300]), [], $w0)->isAcknowledged(), false);
    write(fn($b) => $b->insert(['_id' => 1]), [], $w0);
    write(fn($b) => $b->delete(['_id' => 1]), ['ordered' => false], $w0);
    for ($i = 0; $i < 500; $i++) if (count(find(['_id' => 300])) === 1) return;
    throw new Exception('never seen');
},
'read_preference' => function () {
    filled();
    eq(count(find([], [], ['readPreference' => new ReadPreference('secondaryPreferred', [['dc' => 'x'], []])])), 10);
    $e = fails(null, fn() => (new Manager(getenv('VD_URI'), ['serverSelectionTimeoutMS' => 300, 'appname' => 'rp']))->executeQuery(DB . '.things', new Query([]), ['readPreference' => new ReadPreference('secondary')]));
    eq($e instanceof X\ConnectionTimeoutException, true);
},
'max_time' => function () {
    filled();
    $slow = [['$match' => ['_id' => 1]], ['$project' => ['a' => ['$range' => [0, 1000000]]]], ['$unwind' => '$a'], ['$group' => ['_id' => null, 'n' => ['$sum' => '$a']]]];
    fails(50, fn() => aggregate($slow, ['maxTimeMS' => 1]));
    eq(count(find([], ['maxTimeMS' => 10000])), 10);
},
'compression' => function () {
    foreach (['zlib', 'snappy', 'zstd'] as $name) {
        $m = new Manager(getenv('VD_URI') . "&compressors=$name");
        $bulk = new BulkWrite;
        for ($i = 0; $i < 100; $i++) $bulk->insert(['s' => str_repeat('ab', 5000), 'by' => $name]);
        $m->executeBulkWrite(DB . '.squeezed', $bulk);
        eq(count($m->executeQuery(DB . '.squeezed', new Query(['by' => $name]))->toArray()), 100);
    }
},
'x509' => function () {
    $m = new Manager(getenv('VD_X509_URI'));
    eq($m->executeCommand('admin', new Command(['connectionStatus' => 1]))->toArray()[0]->authInfo->authenticatedUsers[0]->db, '$external');
},
];
echo '1..', count($list), "\n";
foreach ($list as $name => $body) check($name, $body);
exit($failed ? 1 : 0);
