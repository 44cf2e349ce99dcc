"""The HTTP fronts: what a client asks for and no store holds yet becomes a job, is copied once, and is redirected to.

request -> front: is it there? -- yes --------------------------------> 302 to the copy
                     no -> Misses -> jobs -> worker -> MirrorCopy ----> 302 to the copy, or to the source
"""
