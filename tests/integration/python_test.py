#!/usr/bin/python3
"""Debian's pymongo 3.11 (wire version 9 and older) against a node that this file starts and stops."""
import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import uuid

import gridfs
import pymongo
from bson import BSON, Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, SON, Timestamp
from bson.binary import STANDARD
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import DeleteMany, DeleteOne, InsertOne, MongoClient, ReadPreference, ReplaceOne, ReturnDocument, UpdateMany, UpdateOne
from pymongo import WriteConcern
from pymongo.errors import (AutoReconnect, BulkWriteError, CollectionInvalid, CursorNotFound, DocumentTooLarge, DuplicateKeyError,
                            OperationFailure, WriteError)
from pymongo.read_concern import ReadConcern

ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), "../.."))
DEV = os.path.join(ROOT, "dev")
BIN = os.environ.get("VD_TEST_BIN") or os.path.join(ROOT, "build/release/bin")
# VEDDB_* are options of the programs, and an unknown one is fatal.
ENV = {k: v for k, v in os.environ.items() if not k.startswith("VEDDB_")}
ENV["VD_TEST_BIN"] = BIN


class Node:
    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix="vd-py-")
        try:
            self.dev("up", "--port", "0")
            with open(os.path.join(self.dir, "connection.json")) as f:
                self.info = json.load(f)
        except Exception:
            self.stop()
            raise

    def dev(self, verb, *more):
        return subprocess.run([DEV, verb, "--dir", self.dir, *more], env=ENV, check=True, stdout=subprocess.PIPE, timeout=60)

    def stop(self):
        self.dev("down")
        shutil.rmtree(self.dir, ignore_errors=True)

    def worker(self, name):
        out = subprocess.run([os.path.join(BIN, "vedctl"), "--socket", self.info["controlSocket"], "status", "--json"],
                             stdout=subprocess.PIPE, timeout=20).stdout
        return next(w for w in json.loads(out)["workers"] if w["name"] == name)

    def kill(self, name):
        pid = self.worker(name)["pid"]
        if pid > 0:
            os.kill(pid, signal.SIGKILL)
        return pid


node = None
client = None


def setUpModule():
    global node, client
    node = Node()
    client = MongoClient(node.info["uri"], serverSelectionTimeoutMS=30000)


def tearDownModule():
    if client:
        client.close()
    if node:
        node.stop()


class Case(unittest.TestCase):
    maxDiff = None
    turn = 0

    def setUp(self):
        Case.turn += 1
        self.db = client["py"]
        self.c = self.db["t%d" % Case.turn]

    def fill(self, n):
        self.c.insert_many([{"_id": i, "g": i % 3, "s": "v%03d" % i} for i in range(n)])

    def refused(self, call, *args, code=None, words=None, **kw):
        """The server's own error, and one that says something."""
        with self.assertRaises(OperationFailure) as got:
            call(*args, **kw)
        e = got.exception
        self.assertIsInstance(e.code, int, e)
        self.assertGreater(len(str(e)), 15)
        if code is not None:
            self.assertIn(e.code, code if isinstance(code, tuple) else (code,), str(e))
        if words:
            self.assertRegex(str(e), words)
        return e


class Connect(Case):
    def test_a_replica_set_of_one_with_a_primary(self):
        client.admin.command("ping")
        self.assertEqual(client.primary, client.address)
        self.assertEqual(client.nodes, frozenset([client.address]))
        self.assertTrue(client.is_primary)
        hello = client.admin.command("ismaster")
        self.assertEqual((hello["setName"], hello["ismaster"], hello["secondary"]), ("veddb", True, False))
        self.assertGreaterEqual(hello["maxWireVersion"], 9)
        self.assertEqual(hello["maxBsonObjectSize"], 16 * 1024 * 1024)
        self.assertEqual(client.max_write_batch_size, 100000)

    def test_server_info(self):
        info = client.server_info()
        self.assertRegex(info["version"], r"^7\.0")
        self.assertEqual(info["ok"], 1)
        self.assertEqual(info["versionArray"][0], 7)

    def test_without_the_ca_nobody_gets_in(self):
        with MongoClient(host=client.address[0], port=client.address[1], tls=True, serverSelectionTimeoutMS=500) as c:
            with self.assertRaisesRegex(pymongo.errors.ServerSelectionTimeoutError, "CERTIFICATE_VERIFY_FAILED|certificate verify"):
                c.admin.command("ping")

    def test_without_tls_nobody_gets_in(self):
        with MongoClient(host=client.address[0], port=client.address[1], serverSelectionTimeoutMS=500) as c:
            self.assertRaises(pymongo.errors.ServerSelectionTimeoutError, c.admin.command, "ping")

    def test_wrong_password(self):
        with MongoClient(node.info["uri"].replace(node.info["password"], "0" * 32), serverSelectionTimeoutMS=5000) as c:
            self.refused(c.py.x.find_one, code=18, words="Authentication failed")

    def test_no_login_no_data(self):
        uri = "mongodb://" + node.info["uri"].split("@")[1]
        with MongoClient(uri, serverSelectionTimeoutMS=5000) as c:
            c.admin.command("ismaster")
            self.refused(c.py.x.find_one, code=13)

    def test_mechanisms_by_name(self):
        with MongoClient(node.info["uri"] + "&authMechanism=SCRAM-SHA-256&authSource=admin") as c:
            self.assertEqual(c.admin.command("ping")["ok"], 1)
        with MongoClient(node.info["uri"] + "&authMechanism=SCRAM-SHA-1") as c:
            self.refused(c.py.x.find_one)

    def test_zlib(self):
        with MongoClient(node.info["uri"] + "&compressors=zlib&zlibCompressionLevel=9") as c:
            text = "compress me " * 10000
            c.py.zlib.insert_one({"_id": 1, "text": text})
            self.assertEqual(c.py.zlib.find_one()["text"], text)

    def test_a_new_user_with_a_role(self):
        self.db.command("createUser", "reader", pwd="p@ss:w/rd", roles=["read"])
        with MongoClient(node.info["uri"], username="reader", password="p@ss:w/rd", authSource="py") as c:
            self.c.insert_one({"_id": 1})
            self.assertEqual(c.py[self.c.name].find_one(), {"_id": 1})
            self.refused(c.py[self.c.name].insert_one, {"_id": 2}, code=13, words="not authorized on py")
        self.db.command("dropUser", "reader")


class Crud(Case):
    def test_insert(self):
        doc = {"a": 1}
        r = self.c.insert_one(doc)
        self.assertTrue(r.acknowledged)
        self.assertEqual(r.inserted_id, doc["_id"])
        self.assertIsInstance(r.inserted_id, ObjectId)
        self.assertEqual(self.c.insert_many([{"_id": i} for i in range(2500)]).inserted_ids, list(range(2500)))
        self.assertEqual(self.c.count_documents({}), 2501)

    def test_duplicate_key(self):
        self.c.insert_one({"_id": "x"})
        with self.assertRaises(DuplicateKeyError) as got:
            self.c.insert_one({"_id": "x"})
        e = got.exception
        self.assertEqual(e.code, 11000)
        self.assertEqual(e.details["keyPattern"], {"_id": 1})
        self.assertEqual(e.details["keyValue"], {"_id": "x"})
        self.assertEqual(e.details["errmsg"], 'E11000 duplicate key error collection: py.%s index: _id_ dup key: { _id: "x" }' % self.c.name)

    def test_insert_many_ordered_and_unordered(self):
        docs = [{"_id": 1}, {"_id": 1}, {"_id": 2}]
        for ordered, n in ((True, 1), (False, 2)):
            self.c.delete_many({})
            with self.assertRaises(BulkWriteError) as got:
                self.c.insert_many(docs, ordered=ordered)
            d = got.exception.details
            self.assertEqual(d["nInserted"], n)
            self.assertEqual([(w["index"], w["code"]) for w in d["writeErrors"]], [(1, 11000)])
            self.assertEqual(d["writeErrors"][0]["op"], {"_id": 1})
            self.assertEqual(self.c.count_documents({}), n)

    def test_update_replace_delete(self):
        self.fill(9)
        r = self.c.update_one({"_id": 1}, {"$set": {"n": 5}, "$inc": {"g": 10}})
        self.assertEqual((r.matched_count, r.modified_count, r.upserted_id), (1, 1, None))
        self.assertEqual(self.c.find_one(1), {"_id": 1, "g": 11, "s": "v001", "n": 5})
        r = self.c.update_one({"_id": 1}, {"$set": {"n": 5}})
        self.assertEqual((r.matched_count, r.modified_count), (1, 0))
        r = self.c.update_many({"g": 0}, {"$push": {"a": {"$each": [3, 1, 2], "$sort": 1}}})
        self.assertEqual((r.matched_count, r.modified_count), (3, 3))
        self.assertEqual(self.c.find_one({"_id": 3})["a"], [1, 2, 3])
        r = self.c.update_one({"_id": 3}, {"$set": {"a.$[big]": 0}}, array_filters=[{"big": {"$gt": 1}}])
        self.assertEqual(self.c.find_one({"_id": 3})["a"], [1, 0, 0])
        r = self.c.update_one({"_id": 100}, {"$setOnInsert": {"new": True}}, upsert=True)
        self.assertEqual((r.matched_count, r.modified_count, r.upserted_id), (0, 0, 100))
        r = self.c.replace_one({"_id": 2}, {"only": 1})
        self.assertEqual((r.matched_count, r.modified_count), (1, 1))
        self.assertEqual(self.c.find_one(2), {"_id": 2, "only": 1})
        self.assertEqual(self.c.delete_one({"_id": 0}).deleted_count, 1)
        self.assertEqual(self.c.delete_many({"g": 0}).deleted_count, 2)
        self.assertEqual(self.c.delete_many({"g": "nothing"}).deleted_count, 0)

    def test_find_one_and(self):
        self.fill(3)
        self.assertEqual(self.c.find_one_and_update({"_id": 1}, {"$inc": {"g": 1}})["g"], 1)
        self.assertEqual(self.c.find_one_and_update({"_id": 1}, {"$inc": {"g": 1}}, return_document=ReturnDocument.AFTER)["g"], 3)
        self.assertIsNone(self.c.find_one_and_update({"_id": 9}, {"$set": {"g": 1}}, upsert=True))
        self.assertEqual(self.c.find_one_and_replace({"_id": 9}, {"r": 1}, return_document=ReturnDocument.AFTER), {"_id": 9, "r": 1})
        self.assertEqual(self.c.find_one_and_delete({}, sort=[("_id", -1)], projection={"_id": 0}), {"r": 1})
        self.assertIsNone(self.c.find_one_and_delete({"_id": "no"}))

    def test_errors_of_updates(self):
        self.c.insert_one({"_id": 1, "s": "text"})
        for update, code in (({"$inc": {"s": 1}}, 14), ({"$set": {"_id": 2}}, 66), ({"$nope": {"a": 1}}, 9),
                             ({"$set": {"a": 1}, "$inc": {"a": 1}}, 40), ({"$push": {"s": 1}}, 2)):
            with self.assertRaises(WriteError) as got:
                self.c.update_one({"_id": 1}, update)
            self.assertEqual(got.exception.code, code, str(got.exception))
        self.assertEqual(self.c.find_one(), {"_id": 1, "s": "text"})
        self.refused(lambda: list(self.c.find({"a": {"$nope": 1}})), code=2, words=r"unknown operator: \$nope")

    def test_bulk_write(self):
        r = self.c.bulk_write([InsertOne({"_id": 1}), InsertOne({"_id": 2}), UpdateOne({"_id": 1}, {"$set": {"a": 1}}),
                               UpdateMany({}, {"$set": {"b": 1}}), ReplaceOne({"_id": 3}, {"c": 1}, upsert=True),
                               UpdateOne({"_id": 4}, {"$set": {"c": 1}}, upsert=True), DeleteOne({"_id": 2}), DeleteMany({"c": 1})])
        self.assertEqual((r.inserted_count, r.matched_count, r.modified_count, r.upserted_count, r.deleted_count), (2, 3, 3, 2, 3))
        self.assertEqual(r.upserted_ids, {4: 3, 5: 4})
        self.assertEqual(list(self.c.find()), [{"_id": 1, "a": 1, "b": 1}])

    def test_bulk_write_errors(self):
        for ordered in (True, False):
            self.c.delete_many({})
            with self.assertRaises(BulkWriteError) as got:
                self.c.bulk_write([InsertOne({"_id": 1}), InsertOne({"_id": 1}), UpdateOne({"_id": 1}, {"$inc": {"a": 1}}),
                                   UpdateOne({"_id": 1}, {"$inc": {"_id": 1}}), DeleteOne({"_id": 7}), InsertOne({"_id": 2})], ordered=ordered)
            d = got.exception.details
            self.assertEqual(d["nInserted"], 1 if ordered else 2)
            self.assertEqual([w["index"] for w in sorted(d["writeErrors"], key=lambda w: w["index"])], [1] if ordered else [1, 3])

    def test_legacy_helpers_of_pymongo_3(self):
        import warnings
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.c.insert([{"_id": i} for i in range(3)])
            self.c.save({"_id": 1, "saved": True})
            self.assertEqual(self.c.update({"_id": 2}, {"$set": {"u": 1}})["updatedExisting"], True)
            self.c.remove({"_id": 0})
            self.assertEqual(self.c.count(), 2)
            self.assertEqual(self.c.find({"saved": True}).count(), 1)
            self.assertEqual(self.c.find_and_modify({"_id": 1}, {"$set": {"saved": False}}, new=True)["saved"], False)

    def test_unacknowledged(self):
        c = self.c.with_options(write_concern=WriteConcern(w=0))
        self.assertFalse(c.insert_one({"_id": 1}).acknowledged)
        c.update_one({"_id": 1}, {"$set": {"a": 1}})
        end = time.time() + 5
        while self.c.find_one() != {"_id": 1, "a": 1} and time.time() < end:
            time.sleep(0.01)
        self.assertEqual(self.c.find_one(), {"_id": 1, "a": 1})

    def test_concerns(self):
        for w in (1, "majority"):
            self.c.with_options(write_concern=WriteConcern(w=w, j=True, wtimeout=1000)).insert_one({"w": w})
        for level in ("local", "available", "majority", "linearizable"):
            self.assertEqual(len(list(self.c.with_options(read_concern=ReadConcern(level)).find())), 2, level)
        for pref in (ReadPreference.PRIMARY, ReadPreference.PRIMARY_PREFERRED, ReadPreference.SECONDARY_PREFERRED, ReadPreference.NEAREST):
            self.assertEqual(self.c.with_options(read_preference=pref).count_documents({}), 2)

    def test_large(self):
        self.c.insert_one({"_id": 1, "b": b"x" * (16 * 1024 * 1024 - 100)})
        self.assertEqual(len(self.c.find_one()["b"]), 16 * 1024 * 1024 - 100)
        self.assertRaises(DocumentTooLarge, self.c.insert_one, {"_id": 2, "b": b"x" * (16 * 1024 * 1024 + 20000)})
        self.c.insert_many([{"b": b"y" * 1000000} for _ in range(60)])  # more than one message of 48 MB
        self.assertEqual(self.c.count_documents({}), 61)


class Reads(Case):
    def test_cursor_batches(self):
        self.fill(250)
        cursor = self.c.find({}, batch_size=7, sort=[("_id", 1)])
        self.assertEqual([d["_id"] for d in cursor], list(range(250)))
        self.assertFalse(cursor.alive)
        self.assertEqual([d["_id"] for d in self.c.find().sort("_id", -1).skip(5).limit(20).batch_size(3)], list(range(244, 224, -1)))
        self.assertEqual(len(list(self.c.find(limit=-5))), 5)
        cursor = self.c.find(batch_size=2)
        next(cursor)
        self.assertTrue(cursor.alive)
        self.assertNotEqual(cursor.cursor_id, 0)
        cursor.close()
        cursor = self.c.find(batch_size=2)
        next(cursor)
        killed = self.db.command("killCursors", self.c.name, cursors=[Int64(cursor.cursor_id)])
        self.assertEqual(killed["cursorsKilled"], [cursor.cursor_id])
        self.assertRaises(CursorNotFound, list, cursor)
        self.assertEqual([d["_id"] for d in self.c.find()[10:13]], [10, 11, 12])
        copy = self.c.find().clone().rewind()
        self.assertEqual(len(list(copy)), 250)

    def test_raw_batches_are_refused(self):
        self.fill(5)  # pymongo 3.11 asks for them in an OP_QUERY, which MongoDB has refused since 5.1
        with self.assertRaises((OperationFailure, AutoReconnect)):
            next(self.c.find_raw_batches(batch_size=2))
        self.assertEqual(self.c.count_documents({}), 5)

    def test_sort_and_projection(self):
        self.fill(9)
        self.assertEqual([d["_id"] for d in self.c.find().sort([("g", -1), ("_id", 1)])], [2, 5, 8, 1, 4, 7, 0, 3, 6])
        self.assertEqual(self.c.find_one({"_id": 4}, {"s": 1}), {"_id": 4, "s": "v004"})
        self.assertEqual(self.c.find_one({"_id": 4}, {"s": 0}), {"_id": 4, "g": 1})
        self.assertEqual(self.c.find_one({"_id": 4}, ["g"]), {"_id": 4, "g": 1})
        self.c.insert_one({"_id": "a", "list": [1, 2, 3, 4], "sub": [{"k": 1, "v": 1}, {"k": 2, "v": 2}]})
        self.assertEqual(self.c.find_one("a", {"_id": 0, "list": {"$slice": [1, 2]}, "sub.v": 1})["list"], [2, 3])
        self.assertEqual(self.c.find_one("a", {"_id": 0, "sub": {"$elemMatch": {"k": 2}}}), {"sub": [{"k": 2, "v": 2}]})
        self.assertEqual(self.c.find_one({"_id": "a", "sub.k": 2}, {"_id": 0, "sub.$": 1}), {"sub": [{"k": 2, "v": 2}]})
        self.refused(self.c.find_one, {}, {"a": 1, "b": 0}, code=(31254, 31253))

    def test_filters(self):
        self.fill(9)
        for f, ids in (({"_id": {"$gte": 7}}, [7, 8]), ({"s": Regex("^V00[12]$", "i")}, [1, 2]), ({"$or": [{"_id": 1}, {"g": 2}]}, [1, 2, 5, 8]),
                       ({"s": {"$in": ["v003", "v005"]}}, [3, 5]), ({"g": {"$not": {"$lt": 2}}}, [2, 5, 8]), ({"none": None, "_id": 3}, [3]),
                       ({"_id": {"$mod": [4, 1]}}, [1, 5]), ({"$expr": {"$gt": ["$_id", 6]}}, [7, 8]), ({"g": {"$type": "string"}}, [])):
            self.assertEqual([d["_id"] for d in self.c.find(f).sort("_id", 1)], ids, f)

    def test_count_distinct(self):
        self.fill(10)
        self.assertEqual(self.c.count_documents({"g": 0}), 4)
        self.assertEqual(self.c.count_documents({}, skip=2, limit=5), 5)
        self.assertEqual(self.c.count_documents({}, hint="_id_"), 10)
        self.assertEqual(self.c.estimated_document_count(), 10)
        self.assertEqual(sorted(self.c.distinct("g")), [0, 1, 2])
        self.assertEqual(self.c.distinct("s", {"_id": {"$lt": 2}}), ["v000", "v001"])
        self.assertEqual(self.c.find({"g": 1}).distinct("_id"), [1, 4, 7])
        self.assertEqual(self.db["empty"].count_documents({}), 0)
        self.assertEqual(self.db["empty"].estimated_document_count(), 0)
        self.assertEqual(self.db["empty"].distinct("a"), [])

    def test_aggregate(self):
        self.fill(30)
        out = list(self.c.aggregate([{"$match": {"_id": {"$lt": 20}}}, {"$group": {"_id": "$g", "n": {"$sum": 1}, "top": {"$max": "$_id"}, "avg": {"$avg": "$_id"}}},
                                     {"$sort": {"_id": 1}}]))
        self.assertEqual(out, [{"_id": 0, "n": 7, "top": 18, "avg": 9.0}, {"_id": 1, "n": 7, "top": 19, "avg": 10.0}, {"_id": 2, "n": 6, "top": 17, "avg": 9.5}])
        self.assertEqual(list(self.c.aggregate([{"$match": {"g": 1}}, {"$count": "n"}])), [{"n": 10}])
        self.assertEqual(len(list(self.c.aggregate([{"$sort": {"_id": -1}}, {"$skip": 2}, {"$limit": 11}, {"$project": {"s": 1}}], batchSize=4))), 11)
        self.assertEqual(list(self.db["empty"].aggregate([{"$count": "n"}])), [])

    def test_explain(self):
        self.fill(5)
        plan = self.c.find({"_id": 1}).explain()
        self.assertEqual(plan["queryPlanner"]["namespace"], "py." + self.c.name)
        self.assertIn(plan["queryPlanner"]["winningPlan"]["stage"], ("IDHACK", "EXPRESS_IXSCAN"))
        self.assertEqual(plan["executionStats"]["nReturned"], 1)
        self.assertIn("COLLSCAN", str(self.c.find({"g": 1}).explain()["queryPlanner"]["winningPlan"]))

    def test_max_time_ms_comment_hint(self):
        self.fill(5)
        self.assertEqual(len(list(self.c.find().max_time_ms(5000).comment("why").hint([("_id", 1)]))), 5)


class Types(Case):
    def test_every_bson_type_comes_back_the_same(self):
        oid = ObjectId()
        values = SON([
            ("double", 1.5), ("inf", float("inf")), ("negzero", -0.0), ("string", "żółć \U0001f600\0nul"), ("object", SON([("z", 1), ("a", SON())])),
            ("array", [1, "two", [3, []], {}]), ("binary", b"\0\1\2"), ("user", Binary(b"\xff", 0x80)), ("md5", Binary(b"m" * 16, 5)),
            ("function", Binary(b"f", 1)), ("uuid", uuid.uuid4()), ("oid", oid), ("false", False), ("true", True),
            ("date", datetime.datetime(2024, 2, 29, 12, 30, 15, 123000)), ("before", datetime.datetime(1901, 1, 1)), ("null", None),
            ("regex", Regex("^a.*b$", "imsx")), ("dbref", DBRef("other", oid, "db", extra=1)), ("code", Code("function() { return 1; }")),
            ("scope", Code("x", SON([("x", 1)]))), ("int32", 2147483647), ("min32", -2147483648), ("int64", Int64(5)), ("big", 9223372036854775807),
            ("timestamp", Timestamp(4294967295, 7)), ("decimal", Decimal128("1234567890.123456789012345678901234")), ("decnan", Decimal128("NaN")),
            ("decinf", Decimal128("-Infinity")), ("decexp", Decimal128("1E-6176")), ("trailing", Decimal128("1.100")), ("minkey", MinKey()), ("maxkey", MaxKey()),
        ])
        doc = SON([("_id", 1)])
        doc.update(values)
        options = CodecOptions(document_class=SON, uuid_representation=STANDARD)
        c = self.c.with_options(codec_options=options)
        c.insert_one(doc)
        raw = self.c.with_options(codec_options=CodecOptions(document_class=RawBSONDocument)).find_one().raw
        self.assertEqual(raw, BSON.encode(doc, codec_options=options), "byte for byte")
        back = c.find_one()
        for k, v in values.items():
            self.assertEqual(back[k], v, k)
            self.assertIs(type(back[k]), {9223372036854775807: Int64}.get(v, type(v)) if isinstance(v, int) else type(v), k)
        self.assertEqual(list(back), list(doc))
        for k, v in values.items():  # each is found by its own value
            if k not in ("regex",):
                self.assertEqual(c.count_documents({k: {"$eq": v}}), 1, k)
        for name, alias in (("double", "double"), ("string", "string"), ("object", "object"), ("array", "array"), ("binary", "binData"), ("null", "null"),
                            ("true", "bool"), ("timestamp", "timestamp"), ("decimal", "decimal"), ("int64", "long"), ("int32", "int"), ("minkey", "minKey"),
                            ("maxkey", "maxKey"), ("regex", "regex"), ("code", "javascript"), ("scope", "javascriptWithScope"), ("oid", "objectId"), ("date", "date")):
            self.assertEqual(self.c.count_documents({name: {"$type": alias}}), 1, alias)

    def test_nan(self):
        self.c.insert_one({"_id": 1, "n": float("nan")})
        self.assertNotEqual(self.c.find_one()["n"], self.c.find_one()["n"])
        self.assertEqual(self.c.count_documents({"n": float("nan")}), 1)

    def test_numbers_compare_across_types(self):
        self.c.insert_many([{"_id": 1, "n": 5}, {"_id": 2, "n": Int64(5)}, {"_id": 3, "n": 5.0}, {"_id": 4, "n": Decimal128("5.00")}, {"_id": 5, "n": "5"}])
        self.assertEqual(self.c.count_documents({"n": 5}), 4)
        with self.assertRaises(DuplicateKeyError):
            self.c.insert_one({"_id": 5.0})

    def test_order_of_types(self):
        order = [MinKey(), None, -1, 2.5, Decimal128("3"), "s", SON([("a", 1)]), [100], Binary(b"b", 0x80), ObjectId(), False, True,
                 datetime.datetime(2020, 1, 1), Timestamp(1, 1), Regex("a"), MaxKey()]
        self.c.insert_many([{"_id": i, "v": v} for i, v in reversed(list(enumerate(order)))])
        got = [d["_id"] for d in self.c.find({}, {"_id": 1}).sort("v", 1)]
        array = got.index(7)  # an array sorts by its smallest element: as the number 100
        self.assertEqual(array, 5)
        self.assertEqual([i for i in got if i != 7], [i for i in range(len(order)) if i != 7])


class Sessions(Case):
    def test_causal_consistency(self):
        with client.start_session(causal_consistency=True) as s:
            self.c.insert_one({"_id": 1}, session=s)
            first = s.operation_time
            self.assertIsInstance(first, Timestamp)
            self.assertIsNotNone(s.cluster_time)
            with MongoClient(node.info["uri"]) as other, other.start_session(causal_consistency=True) as t:
                t.advance_cluster_time(s.cluster_time)
                t.advance_operation_time(s.operation_time)
                self.assertEqual(other.py[self.c.name].find_one({"_id": 1}, session=t), {"_id": 1})
            for i in range(2, 20):
                self.c.insert_one({"_id": i}, session=s)
                self.assertEqual(self.c.count_documents({}, session=s), i)
            self.assertGreater(s.operation_time, first)
            self.assertEqual([d["_id"] for d in self.c.find({}, batch_size=3, session=s).sort("_id", 1)], list(range(1, 20)))

    def test_end(self):
        s = client.start_session()
        self.c.insert_one({}, session=s)
        s.end_session()
        self.assertTrue(s.has_ended)
        self.assertEqual(client.admin.command("endSessions", [{"id": Binary(uuid.uuid4().bytes, 4)}])["ok"], 1)

    def test_retryable_writes_while_storage_is_killed(self):
        stop, done, wrong = threading.Event(), [[], [], []], []

        def write(me):
            i = 0
            while not stop.is_set():
                try:
                    key = "%d-%d" % (me, i)
                    self.c.insert_one({"_id": key, "n": 0})
                    after = self.c.find_one_and_update({"_id": key}, {"$inc": {"n": 1}}, return_document=ReturnDocument.AFTER)
                    if after["n"] != 1:
                        wrong.append((key, after))
                    if self.c.update_one({"_id": key}, {"$inc": {"n": 1}}).modified_count != 1:
                        wrong.append((key, "update"))
                    done[me].append(key)
                    i += 1
                except Exception as e:
                    wrong.append((key, repr(e)))
                    return

        threads = [threading.Thread(target=write, args=(me,)) for me in range(3)]
        for t in threads:
            t.start()
        pids = set()
        try:
            for turn in range(4):
                before = [len(d) for d in done]
                end = time.time() + 15
                while any(len(d) < b + 20 for d, b in zip(done, before)) and not wrong and time.time() < end:
                    time.sleep(0.01)
                if turn < 3:
                    pids.add(node.kill("storaged"))
        finally:
            stop.set()
            for t in threads:
                t.join()
        self.assertEqual(wrong, [])
        self.assertEqual(len(pids), 3)
        keys = {k for d in done for k in d}
        self.assertGreaterEqual(len(keys), 240)
        self.assertEqual({d["_id"]: d["n"] for d in self.c.find()}, {k: 2 for k in keys})

    def test_a_retry_is_answered_once(self):
        with MongoClient(node.info["uri"]) as other, other.start_session() as s:  # its sessions never get back into client's pool
            def send(number):
                return other.py.command(SON([("update", self.c.name), ("updates", [{"q": {"_id": 1}, "u": {"$inc": {"n": 1}}, "upsert": True}]),
                                            ("txnNumber", Int64(number))]), session=s)
            for _ in range(3):
                r = send(1000)
                self.assertEqual((r["n"], r["nModified"], r["upserted"]), (1, 0, [{"index": 0, "_id": 1}]))
            self.assertEqual(self.c.find_one(), {"_id": 1, "n": 1})
            self.assertEqual(send(1001)["nModified"], 1)
            self.refused(send, 1000, code=225)
        self.assertEqual(self.c.find_one(), {"_id": 1, "n": 2})


class Collections(Case):
    def test_list_create_drop_rename(self):
        db = client["pylist"]
        db.create_collection("a")
        db.b.insert_one({})
        self.assertEqual(sorted(db.list_collection_names()), ["a", "b"])
        self.assertRaises(CollectionInvalid, db.create_collection, "a")
        infos = {i["name"]: i for i in db.list_collections()}
        self.assertEqual(infos["a"]["type"], "collection")
        self.assertEqual(infos["a"]["info"]["readOnly"], False)
        self.assertIsInstance(infos["a"]["info"]["uuid"], (uuid.UUID, Binary))
        self.assertEqual(infos["a"]["idIndex"], {"v": 2, "key": {"_id": 1}, "name": "_id_"})
        self.assertEqual(db.list_collection_names(filter={"name": "b"}), ["b"])
        self.assertIn("pylist", client.list_database_names())
        self.assertEqual([d["name"] for d in client.list_databases(filter={"name": "pylist"})], ["pylist"])
        db.b.rename("c")
        self.assertEqual(sorted(db.list_collection_names()), ["a", "c"])
        self.refused(db.c.rename, "a", code=48)
        db.c.rename("a", dropTarget=True)
        self.assertEqual((db.list_collection_names(), db.a.count_documents({})), (["a"], 1))
        db.a.drop()
        db.a.drop()  # nobody minds
        self.assertEqual(db.list_collection_names(), [])
        db.x.insert_one({})
        client.drop_database("pylist")
        self.assertNotIn("pylist", client.list_database_names())

    def test_validator(self):
        self.db.create_collection(self.c.name, validator={"$jsonSchema": {"required": ["n"], "properties": {"n": {"bsonType": "int", "minimum": 0}}}})
        self.c.insert_one({"_id": 1, "n": 1})
        with self.assertRaises(WriteError) as got:
            self.c.insert_one({"_id": 2, "n": -1})
        e = got.exception
        self.assertEqual((e.code, e.details["errmsg"]), (121, "Document failed validation"))
        self.assertEqual(e.details["errInfo"]["failingDocumentId"], 2)
        rule = e.details["errInfo"]["details"]
        self.assertEqual(rule["operatorName"], "$jsonSchema")
        self.assertEqual(rule["schemaRulesNotSatisfied"][0]["operatorName"], "properties")
        self.assertRaises(WriteError, self.c.update_one, {"_id": 1}, {"$set": {"n": "text"}})
        self.assertRaises(WriteError, self.c.replace_one, {"_id": 1}, {})
        self.refused(self.c.find_one_and_update, {"_id": 1}, {"$unset": {"n": 1}}, code=121)
        options = next(self.db.list_collections(filter={"name": self.c.name}))["options"]
        self.assertIn("$jsonSchema", options["validator"])
        self.c.with_options(write_concern=WriteConcern(w=1)).bulk_write([InsertOne({"_id": 3})], bypass_document_validation=True)
        self.db.command("collMod", self.c.name, validationAction="warn")
        self.c.insert_one({"_id": 4})
        self.assertEqual(self.c.count_documents({}), 3)

    def test_indexes(self):
        self.c.insert_one({})
        self.assertEqual(self.c.index_information(), {"_id_": {"v": 2, "key": [("_id", 1)]}})
        self.assertEqual([dict(i) for i in self.c.list_indexes()], [{"v": 2, "key": {"_id": 1}, "name": "_id_"}])
        self.assertEqual(self.c.create_index("_id"), "_id_1")
        self.assertEqual(list(self.c.index_information()), ["_id_"])
        self.refused(self.c.drop_index, "nothing_1", code=27)

    def test_stats(self):
        self.fill(10)
        stats = self.db.command("collstats", self.c.name)
        self.assertEqual((stats["ns"], stats["count"], stats["nindexes"]), ("py." + self.c.name, 10, 1))
        self.assertEqual(self.db.command("dbstats")["db"], "py")
        self.assertEqual(client.admin.command("serverStatus")["ok"], 1)
        self.assertTrue(self.db.validate_collection(self.c.name)["valid"])

    def test_options_of_a_collection(self):
        self.db.create_collection(self.c.name, validator={"a": {"$exists": True}}, validationLevel="moderate")
        options = self.c.options()
        self.assertEqual((options["validator"], options["validationLevel"]), ({"a": {"$exists": True}}, "moderate"))
        self.assertEqual(options.get("validationAction", "error"), "error")

    def test_change_streams(self):
        for n, what in enumerate((self.c, self.db, client)):
            with what.watch() as stream:
                self.assertIsNone(stream.try_next())
                self.c.insert_one({"_id": "seen%d" % n})
                event = next(stream)
                self.assertEqual((event["operationType"], event["documentKey"]), ("insert", {"_id": "seen%d" % n}))
                token = stream.resume_token
            self.c.delete_one({"_id": "seen%d" % n})
            with what.watch(resume_after=token) as stream:
                self.assertEqual(next(stream)["operationType"], "delete")


class NotYet(Case):
    def setUp(self):
        super().setUp()
        self.fill(3)

    def test_secondary_indexes(self):
        for keys in ([("s", "text")], [("loc", "2dsphere")]):
            self.refused(self.c.create_index, keys, code=238, words="not built yet")
        self.assertEqual(self.c.create_index([("g", 1), ("s", -1)]), "g_1_s_-1")
        self.assertEqual(self.c.create_index("u", unique=True, sparse=True), "u_1")
        self.assertEqual(sorted(self.c.index_information()), ["_id_", "g_1_s_-1", "u_1"])
        self.c.insert_one({"_id": "first", "u": 1})
        with self.assertRaises(pymongo.errors.DuplicateKeyError) as caught:
            self.c.insert_one({"_id": "second", "u": 1})
        self.assertEqual((caught.exception.details["keyPattern"], caught.exception.details["keyValue"]), ({"u": 1}, {"u": 1}))
        self.assertEqual([d["_id"] for d in self.c.find({"u": 1}).hint("u_1")], ["first"])
        self.c.drop_index("u_1")
        self.refused(lambda: list(self.c.find().hint("u_1")))

    def test_gridfs(self):
        fs = gridfs.GridFS(self.db)
        body = bytes(range(256)) * 3000
        _id = fs.put(body, filename="f")
        self.assertEqual(fs.get(_id).read(), body)
        self.assertEqual(fs.list(), ["f"])
        self.assertEqual(sorted(self.db.fs.chunks.index_information()), ["_id_", "files_id_1_n_1"])
        fs.delete(_id)
        self.assertEqual(self.db.fs.chunks.count_documents({}), 0)
        self.db.fs.files.drop()
        self.db.fs.chunks.drop()

    def test_transactions(self):
        with client.start_session() as s:
            s.start_transaction()
            self.c.insert_one({"_id": "in"}, session=s)
            self.assertEqual(self.c.count_documents({}, session=s), 4)
            s.abort_transaction()
            self.assertEqual(self.c.count_documents({}), 3)
            s.with_transaction(lambda s: self.c.insert_one({"_id": "in"}, session=s))
        self.assertEqual(self.c.count_documents({}), 4)

    def test_kinds_of_collections(self):
        at = datetime.datetime(2026, 1, 2, 3, 4, 5)
        series = self.db.create_collection("series", timeseries={"timeField": "t", "metaField": "m"})
        series.insert_many([{"t": at, "m": i % 2, "v": i} for i in range(4)])
        self.assertEqual([d["v"] for d in series.find({"m": 1}).sort("v", 1)], [1, 3])
        self.assertEqual(next(c["type"] for c in self.db.list_collections() if c["name"] == "series"), "timeseries")
        self.refused(self.db.create_collection, "bad", timeseries={"timeField": "t"}, capped=True, size=4096)
        series.drop()
        self.assertEqual([n for n in self.db.list_collection_names() if n in ("series", "bad")], [])

    def test_language(self):
        for stage in ({"$geoNear": {}}, {"$planCacheStats": {"a": 1}}):
            self.refused(self.c.aggregate, [stage], words=r"\$" + list(stage)[0][1:])
        self.refused(self.c.aggregate, [{"$nope": 1}], code=40324)
        self.refused(self.c.find_one, {"$where": "true"}, words=r"\$where|JavaScript")
        self.refused(lambda: list(self.c.find().collation({"locale": "nowhere"})), words="locale")
        self.refused(self.c.find_one, {"$text": {"$search": "a"}})
        self.refused(self.c.find_one, {"loc": {"$near": [0, 0]}})
        self.refused(self.db.command, "find", self.c.name, tailable=True, code=2, words="tailable")
        self.refused(self.c.inline_map_reduce, "function(){}", "function(){}")

    def test_snapshot_reads(self):
        reply = self.db.command("find", self.c.name, readConcern={"level": "snapshot"})
        self.assertEqual(len(reply["cursor"]["firstBatch"]), 3)
        self.refused(self.db.command, "find", self.c.name, readConcern={"level": "snapshot", "atClusterTime": Timestamp(1, 1)}, code=246)

    def test_unknown_command(self):
        self.refused(self.db.command, "nonsense", code=59, words="no such command: 'nonsense'")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(unittest.defaultTestLoader.loadTestsFromModule(sys.modules["__main__"]))
    failed = len(result.failures) + len(result.errors)
    print("%d passed, %d failed" % (max(result.testsRun - failed, 0), failed))
    sys.exit(1 if failed or result.testsRun == 0 else 0)
