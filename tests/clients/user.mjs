// tests/clients/user.mjs: makes the user of the certificate (VD_X509_USER) on the node of VD_URI.
import {MongoClient} from 'mongodb';

const client = await MongoClient.connect(process.env.VD_URI);
await client.db('$external').command({createUser: process.env.VD_X509_USER, roles: [{role: 'root', db: 'admin'}]});
await client.close();
