#!/usr/bin/python3
"""tests/clients: the list (../README.md) by Debian's pymongo."""
import datetime
import io
import os
import re
import subprocess
import sys
import traceback

import gridfs
import pymongo
from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from pymongo import DeleteMany, DeleteOne, InsertOne, MongoClient, ReplaceOne, ReturnDocument, UpdateMany, UpdateOne, WriteConcern
from pymongo.collation import Collation
from pymongo.errors import (BulkWriteError, DocumentTooLarge, DuplicateKeyError, ExecutionTimeout, OperationFailure)
from pymongo.read_preferences import Secondary, SecondaryPreferred

E = os.environ
client = MongoClient(E["VD_URI"], authMechanism="SCRAM-SHA-256")
db = client["clients_python"]
count = failed = 0


def check(name, body):
    global count, failed
    count += 1
    try:
        skip = body()
        print(f"ok {count} - {name}" + (f" # SKIP {skip}" if skip else ""), flush=True)
    except Exception:
        failed += 1
        print(f"not ok {count} - {name}", flush=True)
        print("".join("# " + line + "\n" for line in traceback.format_exc().splitlines()), flush=True)


def eq(got, want):
    assert got == want, f"{got!r} instead of {want!r}"


def fails(kind, code, body):
    try:
        body()
    except kind as e:
        assert code is None or e.code == code, f"code {e.code} instead of {code}: {e}"
        return e
    raise AssertionError(f"{kind.__name__} expected")


def filled(n=10):
    c = db["things"]
    c.drop()
    c.insert_many([{"_id": i, "x": i % 3, "s": "aBc"[i % 3] * 2, "tags": [i, i + 1]} for i in range(n)])
    return c


def connect():
    client.drop_database(db.name)
    eq(client.admin.command("ping")["ok"], 1.0)
    eq(client.server_info()["versionArray"][0], 7)


def wrong_password():
    bad = MongoClient(E["VD_URI"], password="wrong")
    fails(OperationFailure, 18, lambda: bad.admin.command("ping"))


def insert():
    c = db["ins"]
    eq(c.insert_one({"_id": 1}).inserted_id, 1)
    assert isinstance(c.insert_one({"a": 1}).inserted_id, ObjectId)
    eq(len(c.insert_many([{}, {}, {}]).inserted_ids), 3)


def find():
    c = filled()
    eq([d["_id"] for d in c.find({"x": 1}).sort("_id", -1).skip(1).limit(1)], [4])
    eq(c.find_one({"_id": 3}, {"_id": 0, "x": 1}), {"x": 0})
    eq(c.find_one({"_id": 3}, {"tags": {"$slice": 1}, "x": 0, "s": 0}), {"_id": 3, "tags": [3]})
    c.create_index("x")
    eq(len(list(c.find({"x": 1}).hint([("x", 1)]))), 3)
    fails(OperationFailure, 2, lambda: list(c.find().hint("nothing_1")))
    eq(c.find({"s": "bb"}).collation(Collation("en", strength=2)).count(), 3)
    eq(len(list(c.find({"$or": [{"_id": {"$gt": 8}}, {"s": re.compile("^A", re.I)}]}))), 4)
    fails(OperationFailure, 2, lambda: list(c.find({"$nothing": 1})))
    eq(list(c.find().min([("_id", 8)]).max([("_id", 9)]).hint([("_id", 1)]))[0]["_id"], 8)


def update():
    c = filled()
    r = c.update_one({"_id": 1}, {"$set": {"y": 1}, "$inc": {"x": 5}})
    eq((r.matched_count, r.modified_count, r.upserted_id), (1, 1, None))
    eq(c.update_many({"x": {"$lt": 3}}, {"$set": {"y": 2}}).modified_count, 9)
    eq(c.update_one({"_id": 77}, {"$setOnInsert": {"n": 1}}, upsert=True).upserted_id, 77)
    eq(c.update_one({"_id": 1}, [{"$set": {"z": {"$add": ["$x", "$y"]}}}]).modified_count, 1)
    c.update_one({"_id": 2}, {"$set": {"tags.$[t]": 0}}, array_filters=[{"t": {"$gt": 2}}])
    eq(c.find_one({"_id": 2})["tags"], [2, 0])
    fails(OperationFailure, 66, lambda: c.update_one({"_id": 1}, {"$set": {"_id": 2}}))


def replace():
    c = filled()
    eq(c.replace_one({"_id": 1}, {"a": 1}).modified_count, 1)
    eq(c.find_one({"_id": 1}), {"_id": 1, "a": 1})
    eq(c.replace_one({"_id": 100}, {"a": 1}, upsert=True).upserted_id, 100)


def delete():
    c = filled()
    eq(c.delete_one({"x": 1}).deleted_count, 1)
    eq(c.delete_many({"x": 1}).deleted_count, 2)
    eq(c.delete_many({"s": "AA"}, collation=Collation("en", strength=2)).deleted_count, 4)


def find_and_modify():
    c = filled()
    eq(c.find_one_and_update({"x": 1}, {"$inc": {"x": 10}}, sort=[("_id", -1)])["_id"], 7)
    eq(c.find_one_and_update({"_id": 7}, {"$inc": {"x": 1}}, {"x": 1}, return_document=ReturnDocument.AFTER), {"_id": 7, "x": 12})
    eq(c.find_one_and_replace({"_id": 50}, {"a": 1}, upsert=True), None)
    eq(c.find_one_and_replace({"_id": 50}, {"a": 2}, return_document=ReturnDocument.AFTER), {"_id": 50, "a": 2})
    eq(c.find_one_and_delete({"_id": 50}), {"_id": 50, "a": 2})
    eq(c.find_one_and_delete({"_id": 50}), None)


def bulk():
    c = filled()
    r = c.bulk_write([InsertOne({"_id": 20}), UpdateOne({"_id": 1}, {"$set": {"b": 1}}), UpdateMany({"x": 0}, {"$set": {"b": 2}}),
                      ReplaceOne({"_id": 30}, {"r": 1}, upsert=True), DeleteOne({"_id": 2}), DeleteMany({"x": 2})])
    eq((r.inserted_count, r.matched_count, r.modified_count, r.deleted_count, r.upserted_ids), (1, 5, 5, 3, {3: 30}))


def bulk_errors():
    c = filled(2)
    ops = [InsertOne({"_id": 5}), InsertOne({"_id": 1}), InsertOne({"_id": 6}), InsertOne({"_id": 1}), UpdateOne({"_id": 0}, {"$set": {"k": 1}})]
    e = fails(BulkWriteError, None, lambda: c.bulk_write(ops))
    eq([(x["index"], x["code"]) for x in e.details["writeErrors"]], [(1, 11000)])
    eq(c.count_documents({}), 3)
    c.delete_one({"_id": 5})
    e = fails(BulkWriteError, None, lambda: c.bulk_write(ops, ordered=False))
    eq([(x["index"], x["code"], x["keyValue"]) for x in e.details["writeErrors"]], [(1, 11000, {"_id": 1}), (3, 11000, {"_id": 1})])
    eq((e.details["nInserted"], e.details["nModified"]), (2, 1))


def cursors():
    c = filled(250)
    eq([d["_id"] for d in c.find(batch_size=7).sort("_id", 1)], list(range(250)))
    cursor = c.find(batch_size=2)
    next(cursor)
    assert cursor.cursor_id
    cursor.close()
    eq(len(list(c.find(no_cursor_timeout=True, batch_size=100))), 250)
    eq(len(list(c.find(limit=-5))), 5)


def indexes():
    c = filled()
    eq(c.create_index([("x", 1), ("s", -1)], name="both"), "both")
    eq(c.create_index([("a", 1)], unique=True, partialFilterExpression={"a": {"$exists": True}}), "a_1")
    c.create_index("when", expireAfterSeconds=3600)
    eq(sorted(c.index_information()), ["_id_", "a_1", "both", "when_1"])
    c.insert_one({"a": 1})
    fails(DuplicateKeyError, 11000, lambda: c.insert_one({"a": 1}))
    fails(OperationFailure, 86, lambda: c.create_index([("x", 1)], name="both"))
    c.drop_index("both")
    fails(OperationFailure, 27, lambda: c.drop_index("both"))
    c.drop_indexes()
    eq(list(c.index_information()), ["_id_"])


def aggregation():
    c = filled()
    eq(list(c.aggregate([{"$match": {"_id": {"$lt": 9}}}, {"$group": {"_id": "$x", "n": {"$sum": 1}, "m": {"$max": "$_id"}}},
                         {"$sort": {"_id": 1}}])), [{"_id": 0, "n": 3, "m": 6}, {"_id": 1, "n": 3, "m": 7}, {"_id": 2, "n": 3, "m": 8}])
    db["other"].drop()
    db["other"].insert_many([{"_id": i, "name": str(i)} for i in range(3)])
    out = list(c.aggregate([{"$lookup": {"from": "other", "localField": "x", "foreignField": "_id", "as": "o"}}, {"$unwind": "$o"},
                            {"$match": {"o.name": "1"}}]))
    eq(len(out), 3)
    f = list(c.aggregate([{"$facet": {"a": [{"$count": "n"}], "b": [{"$sort": {"_id": -1}}, {"$limit": 1}, {"$project": {"_id": 1}}]}}]))
    eq(f, [{"a": [{"n": 10}], "b": [{"_id": 9}]}])
    eq(len(list(c.aggregate([{"$match": {}}], batchSize=3, allowDiskUse=True))), 10)
    fails(OperationFailure, 40324, lambda: c.aggregate([{"$nothing": {}}]))


def out():
    c = filled()
    eq(list(c.aggregate([{"$match": {"x": 1}}, {"$out": "copied"}])), [])
    eq(db["copied"].count_documents({}), 3)
    c.aggregate([{"$set": {"m": 1}}, {"$merge": {"into": "copied"}}])
    eq(db["copied"].count_documents({"m": 1}), 10)


def distinct_count():
    c = filled()
    eq(sorted(c.distinct("x", {"_id": {"$gt": 1}})), [0, 1, 2])
    eq(sorted(c.distinct("tags", {"_id": 1})), [1, 2])
    eq((c.count_documents({"x": 1}), c.estimated_document_count(), c.count({"x": 1})), (3, 10, 3))
    eq(c.count_documents({}, skip=2, limit=3), 3)


def explain():
    p = filled().find({"_id": 3}).explain()
    assert p["queryPlanner"]["winningPlan"] and p["executionStats"]["nReturned"] == 1, p
    db.command("explain", {"aggregate": "things", "pipeline": [], "cursor": {}}, verbosity="queryPlanner")


def sessions():
    with client.start_session(causal_consistency=True) as s:
        c = filled()
        c.insert_one({"_id": 99}, session=s)
        eq(c.find_one({"_id": 99}, session=s), {"_id": 99})
        assert s.operation_time and s.cluster_time


def transactions():
    c = filled()
    with client.start_session() as s:
        s.with_transaction(lambda s: (c.insert_one({"_id": 50}, session=s), c.update_one({"_id": 1}, {"$set": {"t": 1}}, session=s)))
        eq(c.count_documents({"$or": [{"_id": 50}, {"t": 1}]}), 2)
        s.start_transaction()
        c.insert_one({"_id": 51}, session=s)
        eq(c.count_documents({"_id": 51}), 0)
        s.abort_transaction()
        eq(c.count_documents({"_id": 51}), 0)
        s.start_transaction()
        c.update_one({"_id": 2}, {"$set": {"t": 2}}, session=s)
        with client.start_session() as other:
            other.start_transaction()
            e = fails(OperationFailure, 112, lambda: c.update_one({"_id": 2}, {"$set": {"t": 3}}, session=other))
            assert e.has_error_label("TransientTransactionError")
        s.commit_transaction()
        s.commit_transaction()


def change_streams():
    c = filled()
    with c.watch(full_document="updateLookup") as w:
        c.insert_one({"_id": 40})
        c.update_one({"_id": 40}, {"$set": {"a": 1}})
        c.delete_one({"_id": 40})
        first = next(w)
        eq((first["operationType"], first["fullDocument"]), ("insert", {"_id": 40}))
        with c.watch(resume_after=first["_id"]) as again:
            eq([next(again)["operationType"] for _ in range(2)], ["update", "delete"])
        second = next(w)
        eq(second["updateDescription"]["updatedFields"], {"a": 1})
    with client.watch(start_at_operation_time=first["clusterTime"]) as w:
        eq(next(w)["ns"], {"db": db.name, "coll": "things"})
    with db.watch([{"$match": {"operationType": "drop"}}]) as w:
        c.drop()
        eq(next(w)["operationType"], "drop")


def grid_fs():
    bucket = gridfs.GridFSBucket(db)
    data = os.urandom(1000000)
    key = bucket.upload_from_stream("file", io.BytesIO(data), metadata={"a": 1})
    out = io.BytesIO()
    bucket.download_to_stream(key, out)
    eq(out.getvalue(), data)
    bucket.upload_from_stream("file", b"second")
    eq(bucket.open_download_stream_by_name("file").read(), b"second")
    bucket.rename(key, "other")
    eq(sorted(f.filename for f in bucket.find({})), ["file", "other"])
    bucket.delete(key)
    fails(gridfs.NoFile, None, lambda: bucket.open_download_stream(key))


def types():
    c = db["types"]
    values = {
        "double": 1.5, "nan_": float("inf"), "string": "zß水🍌\0x", "object": {"a": {"b": []}}, "array": [1, "a", None], "id": ObjectId(),
        "yes": True, "null": None, "int": 7, "long": Int64(2 ** 62), "decimal": Decimal128("-1.50E+6000"), "dnan": Decimal128("NaN"),
        "old": datetime.datetime(1901, 2, 3, 4, 5, 6, 789000), "ts": Timestamp(4294967295, 7), "min": MinKey(), "max": MaxKey(),
        "re": Regex("a.*b/", "imx"), "code": Code("f()"), "scoped": Code("f()", {"x": 1}), "ref": DBRef("c", 1, "d"),
        **{f"bin{i}": Binary(b"0123456789abcdef", i) for i in (1, 5, 128, 255)}, "bin0": b"0123456789abcdef"}
    c.drop()
    c.insert_one({"_id": 1, **values})
    got = c.find_one({"_id": 1})
    del got["_id"]
    eq(got, values)
    eq(list(got), list(values))
    eq(c.count_documents({"old": {"$lt": datetime.datetime(1950, 1, 1)}, "decimal": {"$type": "decimal"}}), 1)


def large():
    c = db["large"]
    c.drop()
    c.insert_one({"_id": 1, "b": b"x" * (15 << 20)})
    eq(len(c.find_one()["b"]), 15 << 20)
    c.insert_many([{"b": b"y" * (9 << 20)} for _ in range(6)])
    eq(sum(len(d["b"]) for d in c.find({"_id": {"$ne": 1}})), 54 << 20)


def too_large():
    fails((DocumentTooLarge, OperationFailure), None, lambda: db["large"].insert_one({"b": b"x" * ((16 << 20) + 100)}))
    fails(OperationFailure, 17419, lambda: db["large"].update_one({"_id": 1}, {"$push": {"c": "x" * (2 << 20)}}))


def duplicate_key():
    e = fails(DuplicateKeyError, 11000, lambda: filled().insert_one({"_id": 1}))
    eq((e.details["keyPattern"], e.details["keyValue"]), ({"_id": 1}, {"_id": 1}))


def lists():
    filled()
    assert db.name in client.list_database_names()
    assert "things" in db.list_collection_names(filter={"name": "things"})
    db["view"].drop()
    db.create_collection("view", viewOn="things", pipeline=[{"$match": {"x": 1}}])
    eq([x["type"] for x in db.list_collections(filter={"name": "view"})], ["view"])
    eq(db["view"].count_documents({}), 3)
    fails(OperationFailure, 48, lambda: db.command("create", "things", capped=True, size=4096))


def retry():
    c = filled()
    subprocess.run(E["VD_KILL"], shell=True, check=True)
    for i in range(100, 120):
        c.insert_one({"_id": i})
    eq(c.count_documents({"_id": {"$gte": 100}}), 20)


def unacknowledged():
    c = filled().with_options(write_concern=WriteConcern(w=0))
    with client.start_session() as s:
        eq(c.insert_one({"_id": 300}).acknowledged, False)
    c.insert_one({"_id": 1})
    c.bulk_write([InsertOne({"_id": 301}), DeleteOne({"_id": 1})], ordered=False)
    for _ in range(200):
        if db["things"].count_documents({"_id": {"$gte": 300}}) == 2:
            return
    raise AssertionError("never seen")


def read_preference():
    c = filled()
    eq(c.with_options(read_preference=SecondaryPreferred(tag_sets=[{"dc": "x"}, {}])).count_documents({}), 10)
    direct = MongoClient(E["VD_URI"], serverSelectionTimeoutMS=300)
    fails(pymongo.errors.ServerSelectionTimeoutError, None,
          lambda: direct[db.name]["things"].with_options(read_preference=Secondary()).find_one())


def max_time():
    slow = [{"$match": {"_id": 1}}, {"$project": {"a": {"$range": [0, 1000000]}}}, {"$unwind": "$a"}, {"$group": {"_id": None, "n": {"$sum": "$a"}}}]
    c = filled()
    fails(ExecutionTimeout, 50, lambda: list(c.aggregate(slow, maxTimeMS=1)))
    eq(len(list(c.find().max_time_ms(10000))), 10)


def compression():
    for name in ["zlib"] + (["snappy"] if have("snappy") else []) + (["zstd"] if have("zstandard") else []):
        c = MongoClient(E["VD_URI"], compressors=name)[db.name]["squeezed"]
        c.drop()
        c.insert_many([{"s": "ab" * 5000} for _ in range(100)])
        eq(len(list(c.find())), 100)


def have(module):
    try:
        __import__(module)
        return True
    except ImportError:
        return False


def x509():
    c = MongoClient(E["VD_X509_URI"])
    eq(c.admin.command("connectionStatus")["authInfo"]["authenticatedUsers"][0]["db"], "$external")


print("1..31")
for f in (connect, wrong_password, insert, find, update, replace, delete, find_and_modify, bulk, bulk_errors, cursors, indexes, aggregation, out,
          distinct_count, explain, sessions, transactions, change_streams, grid_fs, types, large, too_large, duplicate_key, lists, retry,
          unacknowledged, read_preference, max_time, compression, x509):
    check(f.__name__, f)
sys.exit(failed != 0)
